/* What MODEL names on disk: its file of weights, opened, and its config. */
#include "model/source.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- what a path names -------------------------------------------------------------------------------- */

static bool holds(const char *folder, const char *name) {
    char *path = dlm__join(folder, name);
    bool found = path != NULL && dlm__is_file(path);
    free(path);
    return found;
}

dlm_status dlm__latest_parse(const char *name, const char *text, size_t n, char **checkpoint,
                             dlm_error *err) {
    *checkpoint = NULL;
    size_t length = 0;
    while (length < n && text[length] != '\n' && text[length] != '\r') length++;
    size_t end = length;
    if (end < n && text[end] == '\r') end++;
    if (end < n && text[end] == '\n') end++;
    bool component = length > 0 && text[0] != '.' && memchr(text, '/', length) == NULL;
    if (!component || end < n || memchr(text, 0, length) != NULL)
        return dlm__fail(err, DLM_FORMAT, "%s does not name a checkpoint of this run", name);
    *checkpoint = dlm__copy_bytes(text, length);
    return *checkpoint != NULL ? DLM_OK : dlm__fail_memory(err, name, length);
}

/* The name in a run's file `latest`; free() it. */
static dlm_status read_latest(const char *run, char **name, dlm_error *err) {
    char *path = dlm__join(run, "latest"), *text = NULL;
    size_t n;
    *name = NULL;
    if (path == NULL) return dlm__fail_memory(err, run, strlen(run));
    dlm_status status = dlm__read_file(path, 4096, &text, &n, err);
    if (status == DLM_OK) status = dlm__latest_parse(path, text, n, name, err);
    free(text);
    free(path);
    return status;
}

dlm_status dlm__model_folder(const char *path, char **folder, dlm_error *err) {
    *folder = NULL;
    if (!dlm__is_dir(path)) return dlm__fail(err, DLM_NOT_FOUND, "%s: no such folder", path);
    if (holds(path, "config.json") || holds(path, "model.safetensors") || holds(path, "final.pt")) {
        *folder = dlm__copy_bytes(path, strlen(path));
        return *folder != NULL ? DLM_OK : dlm__fail_memory(err, path, strlen(path));
    }
    if (!holds(path, "latest")) {
        return dlm__fail(err, DLM_NOT_FOUND,
                         "%s: neither a model (config.json, final.pt) nor a run with a checkpoint (latest)",
                         path);
    }
    char *name;
    DLM_TRY(read_latest(path, &name, err));
    char *checkpoints = dlm__join(path, "checkpoints");
    *folder = checkpoints == NULL ? NULL : dlm__join(checkpoints, name);
    free(checkpoints);
    free(name);
    if (*folder == NULL) return dlm__fail_memory(err, path, strlen(path));
    if (dlm__is_dir(*folder)) return DLM_OK;
    dlm_status status =
        dlm__fail(err, DLM_NOT_FOUND, "%s: no such checkpoint, though %s/latest names it", *folder, path);
    free(*folder);
    *folder = NULL;
    return status;
}

/* The file of weights in a model folder: one of safetensors, or else the original's final.pt. */
static char *file_in(const char *folder, dlm_weights weights) {
    const char *name = weights == DLM_WEIGHTS_RAW ? "raw.safetensors" : "model.safetensors";
    if (!holds(folder, name) && !holds(folder, "model.safetensors") && holds(folder, "final.pt"))
        name = "final.pt";
    return dlm__join(folder, name);
}

static dlm_status find_files(const char *path, dlm_weights weights, dlm_source *source, dlm_error *err) {
    if (dlm__is_dir(path)) {
        DLM_TRY(dlm__model_folder(path, &source->folder, err));
        source->file = file_in(source->folder, weights);
    } else {
        const char *slash = strrchr(path, '/');
        const size_t n = slash == NULL ? 0 : (size_t)(slash - path);
        source->folder = slash == NULL ? dlm__copy_bytes(".", 1) : dlm__copy_bytes(path, n > 0 ? n : 1);
        source->file = dlm__copy_bytes(path, strlen(path));
    }
    if (source->file != NULL && source->folder != NULL) return DLM_OK;
    return dlm__fail_memory(err, path, strlen(path));
}

/* ---- files of weights --------------------------------------------------------------------------------- */

static bool ends_with(const char *path, const char *end) {
    const size_t n = strlen(path), m = strlen(end);
    return n >= m && strcmp(path + n - m, end) == 0;
}

static bool begins_with(const char *path, const char *start) {
    char bytes[64];
    const size_t n = strlen(start);
    FILE *file = dlm__is_file(path) ? fopen(path, "rbe") : NULL;
    if (file == NULL) return false;
    const bool same = fread(bytes, 1, n, file) == n && memcmp(bytes, start, n) == 0;
    (void)fclose(file);
    return same;
}

/* By its name, or else as a zip archive begins. */
static bool is_torch(const char *path) {
    if (ends_with(path, ".pt") || ends_with(path, ".pth")) return true;
    return !ends_with(path, ".safetensors") && begins_with(path, "PK");
}

/* What a clone has in the place of a large file where Git LFS is not installed. */
static dlm_status check_pointer(const char *path, dlm_error *err) {
    if (!begins_with(path, "version https://git-lfs.github.com/spec/")) return DLM_OK;
    return dlm__fail(err, DLM_FORMAT,
                     "%s is a pointer of Git LFS in the place of the file: git lfs pull brings the file",
                     path);
}

static dlm_status open_torch(dlm_source *source, dlm_weights weights, dlm_error *err) {
    DLM_TRY(dlm__torch_open(source->file, &source->torch, err));
    const bool model = dlm__torch_has(source->torch, DLM_TORCH_MODEL);
    if (weights == DLM_WEIGHTS_RAW && !dlm__torch_has(source->torch, DLM_TORCH_RAW))
        return dlm__fail(err, DLM_NOT_FOUND, "%s: it holds no raw weights (\"raw\"), only \"model\"",
                         source->file);
    const dlm_torch_dict which = weights == DLM_WEIGHTS_EMA && model ? DLM_TORCH_MODEL : DLM_TORCH_RAW;
    source->tensors = dlm__torch_tensors(source->torch, which);
    return DLM_OK;
}

static dlm_status open_file(dlm_source *source, dlm_weights weights, dlm_error *err) {
    DLM_TRY(check_pointer(source->file, err));
    if (is_torch(source->file)) return open_torch(source, weights, err);
    DLM_TRY(dlm__safetensors_open(source->file, &source->safetensors, err));
    source->tensors = dlm__safetensors_tensors(source->safetensors);
    return DLM_OK;
}

dlm_status dlm__source_open(const char *path, dlm_weights weights, dlm_source *source, dlm_error *err) {
    *source = (dlm_source){0};
    dlm_status status = find_files(path, weights, source, err);
    if (status == DLM_OK) status = open_file(source, weights, err);
    if (status != DLM_OK) dlm__source_close(source);
    return status;
}

void dlm__source_close(dlm_source *source) {
    dlm__safetensors_close(source->safetensors);
    dlm__torch_close(source->torch);
    free(source->file);
    free(source->folder);
    *source = (dlm_source){0};
}

bool dlm__source_has_raw(const dlm_source *source) {
    if (source->torch != NULL)
        return dlm__torch_has(source->torch, DLM_TORCH_MODEL) && dlm__torch_has(source->torch, DLM_TORCH_RAW);
    return ends_with(source->file, "/model.safetensors") && holds(source->folder, "raw.safetensors");
}

/* ---- sizes from tensors ------------------------------------------------------------------------------- */

/* Dimension `axis` of the tensor of that name; 0 where there is none. */
static size_t size_of(const dlm_tensors *tensors, const char *name, size_t axis) {
    size_t i;
    if (!dlm__tensors_find(tensors, name, &i)) return 0;
    const dlm_tensor tensor = tensors->at(tensors->file, i);
    return axis < tensor.ndim ? tensor.shape[axis] : 0;
}

static size_t count_blocks(const dlm_tensors *tensors) {
    char name[DLM_MAX_NAME];
    size_t n = 0, i;
    do (void)snprintf(name, sizeof name, "blocks.%zu.attn.qkv.weight", n);
    while (dlm__tensors_find(tensors, name, &i) && ++n <= tensors->n);
    return n;
}

static const char without[] = "no config.json beside it, nor \"config\" in its metadata";

dlm_status dlm__fail_heads(const char *path, dlm_error *err) {
    return dlm__fail(err, DLM_NOT_FOUND,
                     "%s: %s: its tensors tell every size but the number of heads, which has to be given "
                     "(option heads)",
                     path, without);
}

/* The config of a state dict that has none, if it is the original's kind of model: rotated positions leave no
 * trace in the tensors. Heads leave none either; 0 stands for heads that are not known. */
static dlm_status infer_config(const dlm_tensors *tensors, size_t heads, dlm_config *config, dlm_error *err) {
    size_t i;
    if (!dlm__tensors_find(tensors, "tok_embed.weight", &i))
        return dlm__fail(err, DLM_NOT_FOUND, "%s: %s, and no tensor tok_embed.weight", tensors->path,
                         without);
    if (!dlm__tensors_find(tensors, "t_embedder.mlp.0.weight", &i))
        return dlm__fail(err, DLM_NOT_FOUND,
                         "%s: %s; a model without t_embedder needs that to tell its positions", tensors->path,
                         without);
    *config = (dlm_config){.vocab_size = size_of(tensors, "tok_embed.weight", 0),
                           .hidden_size = size_of(tensors, "tok_embed.weight", 1),
                           .max_seq_len = size_of(tensors, "pos_embed", 1),
                           .depth = count_blocks(tensors),
                           .num_heads = heads > 0 ? heads : 1,
                           .time = DLM_TIME_ADALN,
                           .position = DLM_POSITION_LEARNED,
                           .recipe = DLM_RECIPE_ORIGINAL,
                           .padded = true};
    /* int(C ratio) has to come out as F again. */
    const size_t F = size_of(tensors, "blocks.0.mlp.fc1.weight", 0);
    config->mlp_ratio = config->hidden_size > 0 ? (double)F / (double)config->hidden_size : 0;
    if (dlm__config_hidden(config) < F) config->mlp_ratio = nextafter(config->mlp_ratio, INFINITY);
    const dlm_status status = dlm__config_check(config, tensors->path, err);
    config->num_heads = heads;
    return status;
}

/* ---- config ------------------------------------------------------------------------------------------- */

/* Whether two configs name the same network. */
static bool same_network(const dlm_config *a, const dlm_config *b) {
    return a->vocab_size == b->vocab_size && a->max_seq_len == b->max_seq_len &&
           a->hidden_size == b->hidden_size && a->depth == b->depth && a->num_heads == b->num_heads &&
           dlm__config_hidden(a) == dlm__config_hidden(b) && a->time == b->time && a->position == b->position;
}

static dlm_status read_config_file(const char *path, dlm_config *config, uint64_t **lengths, dlm_error *err) {
    char *text;
    size_t n;
    DLM_TRY(dlm__read_file(path, (size_t)64 << 20, &text, &n, err));
    dlm_status status = dlm__config_parse(path, text, n, config, lengths, err);
    free(text);
    return status;
}

/* config.json beside the weights, which has to agree with `inside` (NULL: they have none). */
static dlm_status read_beside(const dlm_source *source, const char *inside, dlm_config *config,
                              uint64_t **lengths, dlm_error *err) {
    char *path = dlm__join(source->folder, "config.json");
    if (path == NULL) return dlm__fail_memory(err, source->folder, strlen(source->folder));
    dlm_config other;
    dlm_status status = read_config_file(path, config, lengths, err);
    if (status == DLM_OK && inside != NULL) {
        status = dlm__config_parse(source->file, inside, strlen(inside), &other, NULL, err);
        if (status == DLM_OK && !same_network(config, &other)) {
            status = dlm__fail(err, DLM_MISMATCH, "%s describes another model than the metadata of %s", path,
                               source->file);
        }
    }
    free(path);
    return status;
}

static dlm_status find_config(const dlm_source *source, size_t heads, dlm_config *config, uint64_t **lengths,
                              dlm_error *err) {
    const char *inside = NULL;
    char *text = NULL;
    if (source->torch != NULL) DLM_TRY(dlm__torch_config(source->torch, &text, err));
    if (source->safetensors != NULL) inside = dlm__safetensors_metadata(source->safetensors, "config");
    if (text != NULL) {
        const dlm_status status = dlm__config_parse(source->file, text, strlen(text), config, lengths, err);
        free(text);
        return status;
    }
    if (holds(source->folder, "config.json")) return read_beside(source, inside, config, lengths, err);
    if (inside == NULL) return infer_config(&source->tensors, heads, config, err);
    return dlm__config_parse(source->file, inside, strlen(inside), config, lengths, err);
}

dlm_status dlm__source_config(const dlm_source *source, size_t heads, dlm_config *config, uint64_t **lengths,
                              dlm_error *err) {
    *lengths = NULL;
    dlm_status status = find_config(source, heads, config, lengths, err);
    if (status == DLM_OK && heads != 0 && config->num_heads != heads)
        status = dlm__fail(err, DLM_MISMATCH, "%s: its config has %zu heads, not %zu", source->file,
                           config->num_heads, heads);
    if (status != DLM_OK) {
        free(*lengths);
        *lengths = NULL;
    }
    return status;
}
