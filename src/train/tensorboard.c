/* TensorBoard's event files: records, each an Event message in protocol buffer encoding.
 *
 * A record is  length (8 bytes, little-endian), masked CRC-32C of these 8 bytes, data, masked CRC-32C of the
 * data  (tensorflow/core/lib/io/record_writer.h). Of the messages (event.proto, summary.proto, tensor.proto
 * of tensorboard/compat/proto) only the handful of fields below is needed, so they are encoded here: a field
 * is a key, (number << 3 | kind), and then a varint, 8 bytes, 4 bytes, or a length and that many bytes. */
#include "train/tensorboard.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char file_prefix[] = "events.out.tfevents.";

struct dlm_events {
    FILE *file;
    char *path;
};

/* ---- encoding ----------------------------------------------------------------------------------------- */

/* Bytes that grow; failed stays set once there was no memory. */
typedef struct message {
    unsigned char *bytes;
    size_t n, capacity;
    bool failed;
} message;

static void put_bytes(message *m, const void *bytes, size_t n) {
    size_t need;
    if (m->failed || n == 0) return;
    unsigned char *grown = dlm__size_add(m->n, n, &need) ? dlm__grow(m->bytes, &m->capacity, need, 1) : NULL;
    if (grown == NULL) {
        m->failed = true;
        return;
    }
    m->bytes = grown;
    memcpy(m->bytes + m->n, bytes, n);
    m->n += n;
}

static void put_little_endian(message *m, uint64_t value, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)(value >> (8 * i));
        put_bytes(m, &byte, 1);
    }
}

static void put_varint(message *m, uint64_t value) {
    do {
        unsigned char byte = (unsigned char)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        put_bytes(m, &byte, 1);
        value >>= 7;
    } while (value != 0);
}

enum kind { VARINT = 0, FIXED64 = 1, DELIMITED = 2, FIXED32 = 5 };

static void put_key(message *m, unsigned field, enum kind kind) {
    put_varint(m, field << 3 | (unsigned)kind);
}

static void put_integer(message *m, unsigned field, uint64_t value) {
    put_key(m, field, VARINT);
    put_varint(m, value);
}

static void put_double(message *m, unsigned field, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(m, field, FIXED64);
    put_little_endian(m, bits, 8);
}

static void put_float(message *m, unsigned field, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(m, field, FIXED32);
    put_little_endian(m, bits, 4);
}

static void put_delimited(message *m, unsigned field, const void *bytes, size_t n) {
    put_key(m, field, DELIMITED);
    put_varint(m, n);
    put_bytes(m, bytes, n);
}

static void put_string(message *m, unsigned field, const char *text) {
    put_delimited(m, field, text, strlen(text));
}

/* Puts the part into m as a field, and frees it. */
static void put_message(message *m, unsigned field, message *part) {
    if (part->failed) m->failed = true;
    put_delimited(m, field, part->bytes, part->n);
    free(part->bytes);
    *part = (message){0};
}

/* ---- messages ----------------------------------------------------------------------------------------- */

enum event_field { EVENT_WALL_TIME = 1, EVENT_STEP = 2, EVENT_VERSION = 3, EVENT_SUMMARY = 5, EVENT_LOG = 7 };
enum summary_field {
    SUMMARY_VALUE = 1,
    VALUE_TAG = 1,
    VALUE_SIMPLE = 2,
    VALUE_TENSOR = 8,
    VALUE_METADATA = 9,
    METADATA_PLUGIN = 1,
    PLUGIN_NAME = 1
};
enum tensor_field { TENSOR_TYPE = 1, TENSOR_SHAPE = 2, SHAPE_DIM = 2, DIM_SIZE = 1, TENSOR_STRING = 8 };
enum { TYPE_STRING = 7, LOG_STATUS = 1, STATUS_START = 1 };

static message begin_event(void) {
    message event = {0};
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    put_double(&event, EVENT_WALL_TIME, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    return event;
}

static uint32_t masked_crc(const void *bytes, size_t n) {
    uint32_t crc = dlm__crc32c(bytes, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8U;
}

/* Writes the event as one record and frees it. */
static dlm_status write_event(dlm_events *events, message *event, dlm_error *err) {
    message record = {0};
    put_little_endian(&record, event->n, 8);
    put_little_endian(&record, masked_crc(record.bytes, record.n), 4);
    put_bytes(&record, event->bytes, event->n);
    put_little_endian(&record, masked_crc(event->bytes, event->n), 4);
    dlm_status status = DLM_OK;
    if (event->failed || record.failed)
        status = dlm__fail_memory(err, events->path, event->n);
    else if (fwrite(record.bytes, 1, record.n, events->file) != record.n || fflush(events->file) != 0)
        status = dlm__fail_errno(err, errno, "writing %s", events->path);
    free(event->bytes);
    free(record.bytes);
    return status;
}

dlm_status dlm__events_scalars(dlm_events *events, uint64_t step, const dlm_scalar *scalars, size_t n,
                               dlm_error *err) {
    message event = begin_event(), summary = {0};
    for (size_t i = 0; i < n; i++) {
        message value = {0};
        put_string(&value, VALUE_TAG, scalars[i].tag);
        put_float(&value, VALUE_SIMPLE, (float)scalars[i].value);
        put_message(&summary, SUMMARY_VALUE, &value);
    }
    put_integer(&event, EVENT_STEP, step);
    put_message(&event, EVENT_SUMMARY, &summary);
    return write_event(events, &event, err);
}

dlm_status dlm__events_text(dlm_events *events, uint64_t step, const char *tag, const char *text,
                            size_t bytes, dlm_error *err) {
    message event = begin_event(), summary = {0}, value = {0};
    message plugin = {0}, metadata = {0}, dim = {0}, shape = {0}, tensor = {0};
    put_string(&plugin, PLUGIN_NAME, "text");
    put_message(&metadata, METADATA_PLUGIN, &plugin);
    put_integer(&dim, DIM_SIZE, 1);
    put_message(&shape, SHAPE_DIM, &dim);
    put_integer(&tensor, TENSOR_TYPE, TYPE_STRING);
    put_message(&tensor, TENSOR_SHAPE, &shape);
    put_delimited(&tensor, TENSOR_STRING, text, bytes);
    put_string(&value, VALUE_TAG, tag);
    put_message(&value, VALUE_TENSOR, &tensor);
    put_message(&value, VALUE_METADATA, &metadata);
    put_message(&summary, SUMMARY_VALUE, &value);
    put_integer(&event, EVENT_STEP, step);
    put_message(&event, EVENT_SUMMARY, &summary);
    return write_event(events, &event, err);
}

/* ---- files -------------------------------------------------------------------------------------------- */

/* TensorBoard reads the event files of a folder in the order of their names, which begin with a time in
 * seconds: now, or a second behind the latest that is there. */
static int64_t next_stamp(const char *dir) {
    int64_t stamp = (int64_t)time(NULL);
    DIR *list = opendir(dir);
    if (list == NULL) return stamp;
    for (const struct dirent *entry = readdir(list); entry != NULL; entry = readdir(list)) {
        if (strncmp(entry->d_name, file_prefix, sizeof file_prefix - 1) != 0) continue;
        int64_t there = (int64_t)strtoll(entry->d_name + sizeof file_prefix - 1, NULL, 10);
        if (there >= stamp && there < INT64_C(9999999999)) stamp = there + 1;
    }
    (void)closedir(list);
    return stamp;
}

static dlm_status open_file(dlm_events *events, const char *dir, dlm_error *err) {
    char name[80];
    (void)snprintf(name, sizeof name, "%s%010" PRId64 ".diffusionlm", file_prefix, next_stamp(dir));
    events->path = dlm__join(dir, name);
    if (events->path == NULL) return dlm__fail_memory(err, dir, strlen(dir));
    events->file = fopen(events->path, "abe");
    if (events->file == NULL) return dlm__fail_errno(err, errno, "creating %s", events->path);
    return DLM_OK;
}

dlm_status dlm__events_create(const char *dir, uint64_t first_step, dlm_events **events, dlm_error *err) {
    *events = NULL;
    dlm_events *made = dlm__calloc(1, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, dir, sizeof *made);
    dlm_status status = open_file(made, dir, err);
    if (status == DLM_OK) {
        message version = begin_event();
        put_string(&version, EVENT_VERSION, "brain.Event:2");
        status = write_event(made, &version, err);
    }
    if (status == DLM_OK) {
        message event = begin_event(), log = {0};
        put_integer(&log, LOG_STATUS, STATUS_START);
        put_integer(&event, EVENT_STEP, first_step);
        put_message(&event, EVENT_LOG, &log);
        status = write_event(made, &event, err);
    }
    if (status == DLM_OK)
        *events = made;
    else
        dlm__events_close(made);
    return status;
}

void dlm__events_close(dlm_events *events) {
    if (events == NULL) return;
    if (events->file != NULL) (void)fclose(events->file);
    free(events->path);
    free(events);
}
