/* A stand-in for libdcgm.so.4: the real prototypes and structures of NVIDIA's headers, simulated GPUs, named faults.
 *
 * It refuses every structure whose version word is not the header's, so that a wrong layout fails as it would there.
 * Faults are set through eo_fake_* by the process that loaded it. Not part of the product.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "dcgm_agent.h"
#include "dcgm_fields.h"
#include "dcgm_structs.h"

#define GPUS 16
#define FIELDS 2000
#define FAULTS 64

typedef struct { int kind; int status; int64_t i64; double dbl; int64_t ts; } cell_t;

static struct {
    int gpus, inits, connects, disconnects, updates, watches, groups, field_groups, embedded, max_field, auto_ts;
    int64_t now_us;
    cell_t cell[GPUS][FIELDS];
    char uuid[GPUS][64];
    struct { char name[64]; int status; } fault[FAULTS];
    int faults;
    unsigned short watched[FIELDS];
    int watched_count;
    dcgmHealthResponse_t health;
    fpRecvUpdates callback;
    uint64_t user_data;
    char address[256];
    unsigned int unix_socket, timeout_ms;
} s;

static int fault(const char *name)
{
    for (int n = 0; n < s.faults; n++)
        if (!strcmp(s.fault[n].name, name)) return s.fault[n].status;
    return 0;
}

/* --- steering ---------------------------------------------------------------------------------------------------- */

void eo_fake_reset(int gpus)
{
    memset(&s, 0, sizeof s);
    s.gpus = gpus;
    s.max_field = DCGM_FI_MAX_FIELDS;
    s.now_us = 1700000000000000LL;
    s.auto_ts = 1;
    for (int g = 0; g < GPUS; g++)
    {
        const char hex[] = "0123456789abcdef";
        strcpy(s.uuid[g], "GPU-00000000-0000-0000-0000-000000000000");
        s.uuid[g][11] = hex[g];
        for (int f = 0; f < FIELDS; f++) s.cell[g][f].status = DCGM_ST_NOT_SUPPORTED;
    }
}
void eo_fake_i64(int g, int f, long long v) { s.cell[g][f] = (cell_t) { DCGM_FT_INT64, 0, v, 0, s.now_us }; }
void eo_fake_dbl(int g, int f, double v) { s.cell[g][f] = (cell_t) { DCGM_FT_DOUBLE, 0, 0, v, s.now_us }; }
void eo_fake_status(int g, int f, int status) { s.cell[g][f].status = status; }
void eo_fake_old(int g, int f) { s.cell[g][f].ts = 1; }
void eo_fake_uuid(int g, const char *uuid) { strncpy(s.uuid[g], uuid, 63); }
void eo_fake_gpus(int gpus) { s.gpus = gpus; }
void eo_fake_max_field(int field) { s.max_field = field; }
void eo_fake_stand_still(int yes) { s.auto_ts = !yes; }
void eo_fake_fault(const char *name, int status)
{
    for (int n = 0; n < s.faults; n++)
        if (!strcmp(s.fault[n].name, name)) { s.fault[n].status = status; return; }
    strncpy(s.fault[s.faults].name, name, 63);
    s.fault[s.faults++].status = status;
}
void eo_fake_incident(int g, unsigned int system, unsigned int result, const char *text)
{
    dcgmIncidentInfo_t *i = &s.health.incidents[s.health.incidentCount++];
    i->system = system;
    i->health = result;
    i->entityInfo.entityGroupId = DCGM_FE_GPU;
    i->entityInfo.entityId = g;
    strncpy(i->error.msg, text, sizeof i->error.msg - 1);
    i->error.code = 7;
}
static dcgmPolicyCallbackResponse_t notice;
static void *notify(void *unused) { s.callback(&notice, s.user_data); return unused; }
/* As the real library does: from a thread of its own. Returns -1 when nobody has registered. */
int eo_fake_policy(int g, unsigned int condition, unsigned int number)
{
    pthread_t thread;
    if (!s.callback) return -1;
    memset(&notice, 0, sizeof notice);
    notice.version = dcgmPolicyCallbackResponse_version;
    notice.condition = condition;
    notice.gpuId = g;
    if (condition == DCGM_POLICY_COND_XID) notice.val.xid.errnum = number;
    else if (condition == DCGM_POLICY_COND_THERMAL) notice.val.thermal.thermalViolation = number;
    else notice.val.power.powerViolation = number;
    if (pthread_create(&thread, NULL, notify, NULL)) return -2;
    pthread_join(thread, NULL);
    return 0;
}
int eo_fake_count(const char *what)
{
    if (!strcmp(what, "open")) return s.connects - s.disconnects;
    if (!strcmp(what, "groups")) return s.groups;
    if (!strcmp(what, "field_groups")) return s.field_groups;
    if (!strcmp(what, "watches")) return s.watches;
    if (!strcmp(what, "inits")) return s.inits;
    if (!strcmp(what, "embedded")) return s.embedded;
    if (!strcmp(what, "connects")) return s.connects;
    if (!strcmp(what, "unix")) return (int)s.unix_socket;
    if (!strcmp(what, "timeout_ms")) return (int)s.timeout_ms;
    if (!strcmp(what, "callback")) return s.callback != NULL;
    return -1;
}
const char *eo_fake_address(void) { return s.address; }

/* --- the library -------------------------------------------------------------------------------------------------- */

#define STOP(name) do { int code = fault(name); if (code) return code; } while (0)
#define VERSION(given, wanted) do { if ((given) != (wanted)) return DCGM_ST_VER_MISMATCH; } while (0)

dcgmReturn_t dcgmInit(void) { STOP("init"); s.inits++; return DCGM_ST_OK; }
dcgmReturn_t dcgmShutdown(void) { s.inits--; return DCGM_ST_OK; }
dcgmReturn_t dcgmConnect_v2(const char *ip, dcgmConnectV2Params_t *params, dcgmHandle_t *handle)
{
    VERSION(params->version, dcgmConnectV2Params_version);
    STOP("connect");
    strncpy(s.address, ip, 255);
    s.unix_socket = params->addressIsUnixSocket;
    s.timeout_ms = params->timeoutMs;
    s.connects++;
    *handle = 0x7777000011112222ULL;
    return DCGM_ST_OK;
}
dcgmReturn_t dcgmDisconnect(dcgmHandle_t h) { if (!h) return DCGM_ST_BADPARAM; s.disconnects++; return DCGM_ST_OK; }
dcgmReturn_t dcgmStartEmbedded_v2(dcgmStartEmbeddedV2Params_v1 *params)
{
    VERSION(params->version, dcgmStartEmbeddedV2Params_version1);
    STOP("embedded");
    if (params->opMode != DCGM_OPERATION_MODE_AUTO) return DCGM_ST_BADPARAM;
    params->dcgmHandle = 0x7777000011112222ULL;
    s.embedded++;
    return DCGM_ST_OK;
}
dcgmReturn_t dcgmStopEmbedded(dcgmHandle_t h) { if (!h) return DCGM_ST_BADPARAM; s.embedded--; return DCGM_ST_OK; }
dcgmReturn_t dcgmHostengineVersionInfo(dcgmHandle_t h, dcgmVersionInfo_t *info)
{
    VERSION(info->version, dcgmVersionInfo_version);
    STOP("version");
    strcpy(info->rawBuildInfoString, "version:4.6.0;arch:x86_64;buildid:1");
    return h ? DCGM_ST_OK : DCGM_ST_BADPARAM;
}
dcgmReturn_t dcgmGetAllSupportedDevices(dcgmHandle_t h, unsigned int ids[DCGM_MAX_NUM_DEVICES], int *count)
{
    STOP("devices");
    for (int g = 0; g < s.gpus; g++) ids[g] = g;
    *count = s.gpus;
    return h ? DCGM_ST_OK : DCGM_ST_BADPARAM;
}
dcgmReturn_t dcgmGetDeviceAttributes(dcgmHandle_t h, unsigned int g, dcgmDeviceAttributes_t *a)
{
    VERSION(a->version, dcgmDeviceAttributes_version);
    STOP("attributes");
    memset(a, 0xee, sizeof *a); /* what is not set is no accident of zeros */
    strcpy(a->identifiers.uuid, s.uuid[g]);
    strcpy(a->identifiers.deviceName, "NVIDIA H100 80GB HBM3");
    return h ? DCGM_ST_OK : DCGM_ST_BADPARAM;
}
dcgmReturn_t dcgmGroupCreate(dcgmHandle_t h, dcgmGroupType_t type, const char *name, dcgmGpuGrp_t *group)
{
    STOP("group");
    if (!h || type != DCGM_GROUP_DEFAULT || !name[0]) return DCGM_ST_BADPARAM;
    s.groups++;
    *group = 5;
    return DCGM_ST_OK;
}
dcgmReturn_t dcgmGroupDestroy(dcgmHandle_t h, dcgmGpuGrp_t g) { s.groups--; return h && g == 5 ? 0 : DCGM_ST_BADPARAM; }
dcgmReturn_t dcgmFieldGroupCreate(dcgmHandle_t h, int count, const unsigned short *ids, const char *name, dcgmFieldGrp_t *group)
{
    STOP("field_group");
    if (!h || !name[0]) return DCGM_ST_BADPARAM;
    for (int n = 0; n < count; n++)
        if (ids[n] >= s.max_field) return DCGM_ST_UNKNOWN_FIELD;
    for (int n = 0; n < count; n++) s.watched[s.watched_count++ % FIELDS] = ids[n];
    s.field_groups++;
    *group = ids[0] >= 1001 && ids[0] < 1100 ? 9 : 8;
    return DCGM_ST_OK;
}
dcgmReturn_t dcgmFieldGroupDestroy(dcgmHandle_t h, dcgmFieldGrp_t g) { s.field_groups--; return h && g ? 0 : DCGM_ST_BADPARAM; }
dcgmReturn_t dcgmWatchFields(dcgmHandle_t h, dcgmGpuGrp_t g, dcgmFieldGrp_t f, long long freq, double age, int samples)
{
    STOP("watch");
    if (f == 9) STOP("watch_profiling");
    if (!h || g != 5 || freq != 1000000 || age < 1 || samples < 1) return DCGM_ST_BADPARAM;
    s.watches++;
    return DCGM_ST_OK;
}
dcgmReturn_t dcgmUnwatchFields(dcgmHandle_t h, dcgmGpuGrp_t g, dcgmFieldGrp_t f) { s.watches--; return h && g && f ? 0 : DCGM_ST_BADPARAM; }
dcgmReturn_t dcgmUpdateAllFields(dcgmHandle_t h, int wait) { STOP("update"); s.updates++; return h && wait == 1 ? 0 : DCGM_ST_BADPARAM; }
dcgmReturn_t dcgmEntitiesGetLatestValues(dcgmHandle_t h, dcgmGroupEntityPair_t e[], unsigned int entities, unsigned short f[],
                                         unsigned int fields, unsigned int flags, dcgmFieldValue_v2 values[])
{
    STOP("values");
    if (!h || flags) return DCGM_ST_BADPARAM;
    if (s.auto_ts) s.now_us += 1000000;
    int skip = fault("values_short"), at = 0;
    for (unsigned int n = entities; n-- > 0;) /* the entities come in no order: backwards here */
        for (unsigned int k = 0; k < fields; k++)
        {
            if (skip && n == 0) continue;
            cell_t *cell = &s.cell[e[n].entityId][f[k]];
            dcgmFieldValue_v2 *v = &values[at++];
            v->version = dcgmFieldValue_version2;
            v->entityGroupId = e[n].entityGroupId;
            v->entityId = e[n].entityId;
            v->fieldId = f[k];
            v->fieldType = cell->kind;
            v->status = cell->status;
            v->ts = cell->status ? 0 : s.auto_ts && cell->ts != 1 ? s.now_us : cell->ts;
            if (cell->kind == DCGM_FT_DOUBLE) v->value.dbl = cell->dbl; else v->value.i64 = cell->i64;
        }
    return DCGM_ST_OK;
}
dcgmReturn_t dcgmHealthSet(dcgmHandle_t h, dcgmGpuGrp_t g, dcgmHealthSystems_t systems)
{
    STOP("health_set");
    return h && g == 5 && systems == DCGM_HEALTH_WATCH_ALL ? DCGM_ST_OK : DCGM_ST_BADPARAM;
}
dcgmReturn_t dcgmHealthCheck(dcgmHandle_t h, dcgmGpuGrp_t g, dcgmHealthResponse_t *out)
{
    VERSION(out->version, dcgmHealthResponse_version);
    STOP("health");
    out->incidentCount = s.health.incidentCount;
    for (unsigned int n = 0; n < s.health.incidentCount; n++) out->incidents[n] = s.health.incidents[n];
    s.health.incidentCount = 0;
    return h && g ? DCGM_ST_OK : DCGM_ST_BADPARAM;
}
dcgmReturn_t dcgmPolicyRegister_v2(dcgmHandle_t h, dcgmGpuGrp_t g, dcgmPolicyCondition_t c, fpRecvUpdates callback, uint64_t user)
{
    STOP("policy");
    if (!h || !g || c != 0x7f) return DCGM_ST_BADPARAM;
    s.callback = callback;
    s.user_data = user;
    return DCGM_ST_OK;
}
dcgmReturn_t dcgmPolicyUnregister(dcgmHandle_t h, dcgmGpuGrp_t g, dcgmPolicyCondition_t c) { s.callback = NULL; return h && g && c ? 0 : DCGM_ST_BADPARAM; }
