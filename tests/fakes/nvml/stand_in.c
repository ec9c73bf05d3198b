/* A stand-in for libnvidia-ml.so.1: the real C boundary, simulated devices. All state lives in one file that every
 * process maps (FAKE_NVML_STATE), so a test turns knobs from outside and a second process sees what was set.
 * The structs below are mirrored in driver.py; change both.
 */
#define _GNU_SOURCE
#define NVML_NO_UNVERSIONED_FUNC_DEFS 1
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "nvml.h"

#define MAGIC 0x454f4e31u /* "EON1" */
#define MAX_GPUS 16
#define EXPORT __attribute__((visibility("default")))

typedef struct {
    char name[64], uuid[64];
    /* device */
    uint32_t limit_mw, default_mw, min_mw, max_mw, idle_mw;
    uint32_t lock_min_mhz, lock_max_mhz; /* 0 = no lock */
    uint32_t sm_min_mhz, sm_max_mhz, sm_step_mhz, mem_mhz;
    uint32_t temp_c, mem_temp_c, util_percent, mem_util_percent, persistence;
    uint32_t power_mw; /* what the sensor says */
    /* knobs of the test */
    uint32_t demand_mw, lag_ms, reasons, latency_us;
    uint32_t get_err, set_err, lie_set;
    uint32_t pad;
    uint64_t mem_used, mem_total;
    uint64_t energy_uj, last_ns, set_calls;
} gpu_t;

typedef struct {
    uint32_t magic, count, init_err, gone_err;
    gpu_t gpu[MAX_GPUS];
} state_t;

static state_t *state;
static int users;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static nvmlReturn_t map_state(void) {
    const char *path = getenv("FAKE_NVML_STATE");
    struct stat info;
    if (!path) return NVML_ERROR_DRIVER_NOT_LOADED;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return NVML_ERROR_DRIVER_NOT_LOADED;
    if (fstat(fd, &info) || info.st_size < (off_t)sizeof(state_t)) {
        close(fd);
        return NVML_ERROR_CORRUPTED_INFOROM;
    }
    void *mapped = mmap(NULL, sizeof(state_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED) return NVML_ERROR_MEMORY;
    state = mapped;
    return state->magic == MAGIC ? NVML_SUCCESS : NVML_ERROR_CORRUPTED_INFOROM;
}

/* The clock that load and lock ask for, and the power that goes with it. */
static uint32_t wanted_clock(const gpu_t *g) {
    uint32_t clock = g->util_percent ? g->sm_max_mhz : g->sm_min_mhz;
    if (g->lock_max_mhz && clock > g->lock_max_mhz) clock = g->lock_max_mhz;
    if (g->lock_min_mhz && clock < g->lock_min_mhz) clock = g->lock_min_mhz;
    return clock;
}
static double wanted_mw(const gpu_t *g) { return g->demand_mw * ((double)wanted_clock(g) / g->sm_max_mhz); }

/* The clock falls further when the limit bites. */
static uint32_t sm_clock(const gpu_t *g) {
    double wanted = wanted_mw(g);
    uint32_t clock = wanted_clock(g);
    if (wanted > g->limit_mw) clock = (uint32_t)(clock * (g->limit_mw / wanted));
    return clock < g->sm_min_mhz ? g->sm_min_mhz : clock;
}

/* Power moves towards its target with a first-order lag; the energy counter integrates it. */
static void advance(gpu_t *g) {
    uint64_t t = now_ns();
    double dt = (double)(t - g->last_ns) / 1e9;
    if (dt <= 0) return;
    double target = wanted_mw(g);
    if (target > g->limit_mw) target = g->limit_mw;
    if (target < g->idle_mw) target = g->idle_mw;
    double share = g->lag_ms ? dt / (dt + g->lag_ms / 1e3) : 1.0;
    double power = g->power_mw + (target - g->power_mw) * share;
    g->energy_uj += (uint64_t)((g->power_mw + power) / 2 * dt * 1000);
    g->power_mw = (uint32_t)(power + 0.5);
    g->last_ns = t;
}

static nvmlReturn_t device(nvmlDevice_t handle, gpu_t **out) {
    if (!users || !state) return NVML_ERROR_UNINITIALIZED;
    if (state->gone_err) return (nvmlReturn_t)state->gone_err;
    gpu_t *g = (gpu_t *)handle;
    if (g < state->gpu || g >= state->gpu + state->count) return NVML_ERROR_INVALID_ARGUMENT;
    if (g->latency_us) usleep(g->latency_us);
    *out = g;
    return NVML_SUCCESS;
}

#define READ(handle)                                  \
    gpu_t *g;                                         \
    {                                                 \
        nvmlReturn_t r_ = device(handle, &g);         \
        if (r_) return r_;                            \
        if (g->get_err) return (nvmlReturn_t)g->get_err; \
    }
#define WRITE(handle)                                 \
    gpu_t *g;                                         \
    {                                                 \
        nvmlReturn_t r_ = device(handle, &g);         \
        if (r_) return r_;                            \
        __atomic_fetch_add(&g->set_calls, 1, __ATOMIC_SEQ_CST); \
        if (g->set_err) return (nvmlReturn_t)g->set_err; \
    }

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    pthread_mutex_lock(&mutex);
    nvmlReturn_t result = users ? NVML_SUCCESS : map_state();
    if (!result && state->init_err) result = (nvmlReturn_t)state->init_err;
    if (!result) users++;
    pthread_mutex_unlock(&mutex);
    return result;
}
EXPORT nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
EXPORT nvmlReturn_t nvmlShutdown(void) {
    pthread_mutex_lock(&mutex);
    nvmlReturn_t result = users ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
    if (users && --users == 0) {
        munmap(state, sizeof(state_t)); /* the next init reads the environment again */
        state = NULL;
    }
    pthread_mutex_unlock(&mutex);
    return result;
}
EXPORT const char *nvmlErrorString(nvmlReturn_t result) {
    switch (result) {
        case NVML_SUCCESS: return "The operation was successful";
        case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
        case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
        case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
        case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
        case NVML_ERROR_NOT_FOUND: return "Not Found";
        case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
        case NVML_ERROR_TIMEOUT: return "Timeout";
        case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
        default: return "Unknown Error";
    }
}
EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *text, unsigned int length) {
    if (!users) return NVML_ERROR_UNINITIALIZED;
    snprintf(text, length, "580.00.stand-in");
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *text, unsigned int length) {
    snprintf(text, length, "12.580.00");
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    if (!users) return NVML_ERROR_UNINITIALIZED;
    if (state->gone_err) return (nvmlReturn_t)state->gone_err;
    *count = state->count;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *handle) {
    if (!users) return NVML_ERROR_UNINITIALIZED;
    if (state->gone_err) return (nvmlReturn_t)state->gone_err;
    if (index >= state->count) return NVML_ERROR_INVALID_ARGUMENT;
    if (state->gpu[index].get_err == NVML_ERROR_GPU_IS_LOST) return NVML_ERROR_GPU_IS_LOST;
    *handle = (nvmlDevice_t)&state->gpu[index];
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *handle) {
    if (!users) return NVML_ERROR_UNINITIALIZED;
    for (unsigned int i = 0; i < state->count; i++)
        if (!strcmp(uuid, state->gpu[i].uuid)) return nvmlDeviceGetHandleByIndex_v2(i, handle);
    return NVML_ERROR_NOT_FOUND;
}
EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t handle, char *text, unsigned int length) {
    READ(handle);
    snprintf(text, length, "%s", g->name);
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t handle, char *text, unsigned int length) {
    READ(handle);
    snprintf(text, length, "%s", g->uuid);
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t handle, nvmlEnableState_t *mode) {
    READ(handle);
    *mode = g->persistence ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t handle, unsigned int *milliwatts) {
    READ(handle);
    advance(g);
    *milliwatts = g->power_mw;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t handle, unsigned long long *millijoules) {
    READ(handle);
    advance(g);
    *millijoules = g->energy_uj / 1000;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t handle, nvmlUtilization_t *rates) {
    READ(handle);
    rates->gpu = g->util_percent;
    rates->memory = g->mem_util_percent;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t handle, nvmlTemperatureSensors_t sensor, unsigned int *temp) {
    READ(handle);
    if (sensor != NVML_TEMPERATURE_GPU) return NVML_ERROR_INVALID_ARGUMENT;
    *temp = g->temp_c;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t handle, nvmlTemperature_t *temp) {
    READ(handle);
    if (temp->version != nvmlTemperature_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    temp->temperature = (int)g->temp_c;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t handle, int count, nvmlFieldValue_t *values) {
    READ(handle);
    for (int i = 0; i < count; i++) {
        int known = values[i].fieldId == NVML_FI_DEV_MEMORY_TEMP;
        values[i].nvmlReturn = known ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
        values[i].valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
        values[i].value.uiVal = known ? g->mem_temp_c : 0;
    }
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t handle, nvmlMemory_t *memory) {
    READ(handle);
    memory->total = g->mem_total;
    memory->used = g->mem_used;
    memory->free = g->mem_total - g->mem_used;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t handle, nvmlMemory_v2_t *memory) {
    READ(handle);
    if (memory->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memory->total = g->mem_total;
    memory->used = g->mem_used;
    memory->reserved = 0;
    memory->free = g->mem_total - g->mem_used;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t handle, nvmlClockType_t type, unsigned int *mhz) {
    READ(handle);
    if (type == NVML_CLOCK_MEM) *mhz = g->mem_mhz;
    else *mhz = sm_clock(g);
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t handle, nvmlClockType_t type, unsigned int *mhz) {
    READ(handle);
    *mhz = type == NVML_CLOCK_MEM ? g->mem_mhz : g->sm_max_mhz;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetSupportedMemoryClocks(nvmlDevice_t handle, unsigned int *count, unsigned int *mhz) {
    READ(handle);
    if (!mhz || *count < 1) {
        *count = 1;
        return NVML_ERROR_INSUFFICIENT_SIZE;
    }
    *count = 1;
    mhz[0] = g->mem_mhz;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetSupportedGraphicsClocks(nvmlDevice_t handle, unsigned int memory_mhz, unsigned int *count,
                                                         unsigned int *mhz) {
    READ(handle);
    if (memory_mhz != g->mem_mhz) return NVML_ERROR_NOT_FOUND;
    unsigned int steps = (g->sm_max_mhz - g->sm_min_mhz) / g->sm_step_mhz + 1;
    if (!mhz || *count < steps) {
        *count = steps;
        return NVML_ERROR_INSUFFICIENT_SIZE;
    }
    *count = steps;
    for (unsigned int i = 0; i < steps; i++) mhz[i] = g->sm_max_mhz - i * g->sm_step_mhz; /* descending, as NVML */
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t handle, unsigned long long *reasons) {
    READ(handle);
    *reasons = g->reasons | (wanted_mw(g) > g->limit_mw ? nvmlClocksEventReasonSwPowerCap : 0) |
               (g->util_percent ? 0 : nvmlClocksEventReasonGpuIdle);
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t handle, unsigned int *milliwatts) {
    READ(handle);
    *milliwatts = g->limit_mw;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t handle, unsigned int *milliwatts) {
    return nvmlDeviceGetPowerManagementLimit(handle, milliwatts);
}
EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t handle, unsigned int *milliwatts) {
    READ(handle);
    *milliwatts = g->default_mw;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t handle, unsigned int *low, unsigned int *high) {
    READ(handle);
    *low = g->min_mw;
    *high = g->max_mw;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t handle, unsigned int milliwatts) {
    WRITE(handle);
    if (milliwatts < g->min_mw || milliwatts > g->max_mw) return NVML_ERROR_INVALID_ARGUMENT;
    advance(g);
    if (!g->lie_set) g->limit_mw = milliwatts;
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceSetPowerManagementLimit_v2(nvmlDevice_t handle, nvmlPowerValue_v2_t *value) {
    if (value->version != nvmlPowerValue_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return nvmlDeviceSetPowerManagementLimit(handle, value->powerValueMw);
}
EXPORT nvmlReturn_t nvmlDeviceSetGpuLockedClocks(nvmlDevice_t handle, unsigned int low, unsigned int high) {
    WRITE(handle);
    if (low > high || high < g->sm_min_mhz || high > g->sm_max_mhz) return NVML_ERROR_INVALID_ARGUMENT;
    advance(g);
    if (!g->lie_set) {
        g->lock_min_mhz = low;
        g->lock_max_mhz = high;
    }
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceResetGpuLockedClocks(nvmlDevice_t handle) {
    WRITE(handle);
    advance(g);
    if (!g->lie_set) g->lock_min_mhz = g->lock_max_mhz = 0;
    return NVML_SUCCESS;
}
