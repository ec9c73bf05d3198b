/* Prints what the headers say of every structure that the native source mirrors: "name value" per line. */
#include <stddef.h>
#include <stdio.h>

#include "dcgm_agent.h"
#include "dcgm_fields.h"
#include "dcgm_structs.h"

#define SIZE(label, type) printf(label " %zu\n", sizeof(type))
#define AT(label, type, member) printf(label "." #member " %zu\n", offsetof(type, member))
#define WORD(label, value) printf(label " %lld\n", (long long)(value))

int main(void)
{
    SIZE("ConnectParams", dcgmConnectV2Params_t);
    AT("ConnectParams", dcgmConnectV2Params_t, timeoutMs);
    AT("ConnectParams", dcgmConnectV2Params_t, addressIsUnixSocket);
    SIZE("EmbeddedParams", dcgmStartEmbeddedV2Params_v1);
    AT("EmbeddedParams", dcgmStartEmbeddedV2Params_v1, dcgmHandle);
    AT("EmbeddedParams", dcgmStartEmbeddedV2Params_v1, denyList);
    SIZE("EntityPair", dcgmGroupEntityPair_t);
    AT("EntityPair", dcgmGroupEntityPair_t, entityId);
    SIZE("FieldValue", dcgmFieldValue_v2);
    AT("FieldValue", dcgmFieldValue_v2, entityId);
    AT("FieldValue", dcgmFieldValue_v2, fieldId);
    AT("FieldValue", dcgmFieldValue_v2, fieldType);
    AT("FieldValue", dcgmFieldValue_v2, status);
    AT("FieldValue", dcgmFieldValue_v2, ts);
    AT("FieldValue", dcgmFieldValue_v2, value);
    SIZE("Identifiers", dcgmDeviceIdentifiers_t);
    AT("Identifiers", dcgmDeviceIdentifiers_t, deviceName);
    AT("Identifiers", dcgmDeviceIdentifiers_t, uuid);
    AT("Identifiers", dcgmDeviceIdentifiers_t, driverVersion);
    SIZE("DeviceAttributes", dcgmDeviceAttributes_t);
    AT("DeviceAttributes", dcgmDeviceAttributes_t, identifiers);
    SIZE("ErrorDetail", dcgmDiagErrorDetail_t);
    AT("ErrorDetail", dcgmDiagErrorDetail_t, code);
    SIZE("Incident", dcgmIncidentInfo_t);
    AT("Incident", dcgmIncidentInfo_t, health);
    AT("Incident", dcgmIncidentInfo_t, error);
    AT("Incident", dcgmIncidentInfo_t, entityInfo);
    SIZE("HealthResponse", dcgmHealthResponse_t);
    AT("HealthResponse", dcgmHealthResponse_t, incidentCount);
    AT("HealthResponse", dcgmHealthResponse_t, incidents);
    SIZE("PolicyResponse", dcgmPolicyCallbackResponse_t);
    AT("PolicyResponse", dcgmPolicyCallbackResponse_t, condition);
    AT("PolicyResponse", dcgmPolicyCallbackResponse_t, val);
    AT("PolicyResponse", dcgmPolicyCallbackResponse_t, gpuId);
    printf("Violation.number %zu\n", offsetof(dcgmPolicyConditionXID_t, errnum));
    SIZE("VersionInfo", dcgmVersionInfo_t);
    AT("VersionInfo", dcgmVersionInfo_t, rawBuildInfoString);
    WORD("CONNECT_VERSION", dcgmConnectV2Params_version);
    WORD("EMBEDDED_VERSION", dcgmStartEmbeddedV2Params_version1);
    WORD("ATTRIBUTES_VERSION", dcgmDeviceAttributes_version);
    WORD("HEALTH_VERSION", dcgmHealthResponse_version);
    WORD("VERSION_INFO_VERSION", dcgmVersionInfo_version);
    WORD("MAX_DEVICES", DCGM_MAX_NUM_DEVICES);
    WORD("MAX_INCIDENTS", DCGM_HEALTH_WATCH_MAX_INCIDENTS_V2);
    WORD("GROUP_DEFAULT", DCGM_GROUP_DEFAULT);
    WORD("ENTITY_GPU", DCGM_FE_GPU);
    WORD("OPERATION_AUTO", DCGM_OPERATION_MODE_AUTO);
    WORD("POLICY_XID", DCGM_POLICY_COND_XID);
    WORD("BADPARAM", DCGM_ST_BADPARAM);
    WORD("NOT_SUPPORTED", DCGM_ST_NOT_SUPPORTED);
    WORD("UNINITIALIZED", DCGM_ST_UNINITIALIZED);
    WORD("TIMEOUT", DCGM_ST_TIMEOUT);
    WORD("VER_MISMATCH", DCGM_ST_VER_MISMATCH);
    WORD("UNKNOWN_FIELD", DCGM_ST_UNKNOWN_FIELD);
    WORD("NO_DATA", DCGM_ST_NO_DATA);
    WORD("NO_PERMISSION", DCGM_ST_NO_PERMISSION);
    WORD("GPU_IS_LOST", DCGM_ST_GPU_IS_LOST);
    WORD("RESET_REQUIRED", DCGM_ST_RESET_REQUIRED);
    WORD("CONNECTION_NOT_VALID", DCGM_ST_CONNECTION_NOT_VALID);
    WORD("GPUS_DETACHED", DCGM_ST_GPUS_DETACHED);
    return 0;
}
