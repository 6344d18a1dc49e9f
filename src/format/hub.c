/* The public calls about the Hub, and which files of a repository are a model. */
#include "format/hub.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

dlm_hub_options dlm_hub_defaults(void) {
    return (dlm_hub_options){.kind = DLM_REPO_MODEL};
}

/* All that a call works with. */
typedef struct session {
    dlm_hub_settings settings;
    dlm_hub_repo repo;
    dlm_hub_client *client;
    char *storage;
} session;

static dlm_status begin(const char *id, const dlm_hub_options *options, session *made, dlm_error *err) {
    if ((unsigned)options->kind > DLM_REPO_DATASET)
        return dlm__fail(err, DLM_ARGUMENT, "kind %d of a repository is no such value", (int)options->kind);
    DLM_TRY(dlm__hub_repo_parse(id, options->revision, options->kind, &made->repo, err));
    DLM_TRY(dlm__hub_settings_read(&made->settings, err));
    DLM_TRY(dlm__hub_client_create(&made->settings, options->progress, options->user, &made->client, err));
    made->storage = dlm__hub_storage(made->settings.cache, &made->repo);
    return made->storage != NULL ? DLM_OK : dlm__fail_memory(err, id, strlen(id));
}

static void end(session *made) {
    free(made->storage);
    dlm__hub_client_free(made->client);
    dlm__hub_settings_free(&made->settings);
    dlm__hub_repo_free(&made->repo);
}

/* Fetches the n files, all of the commit that the first one is of, and then lets the ref name that. In a
 * cache that cannot be written, what is there can be read. */
static dlm_status fetch_all(session *made, const char *revision, const char *const *files, size_t n,
                            dlm_hub_files *got, dlm_error *err) {
    bool known = dlm__hub_is_hex(revision, DLM_HUB_COMMIT);
    if (known) memcpy(got->commit, revision, sizeof got->commit);
    for (size_t i = 0; i < n; i++) {
        char commit[sizeof got->commit];
        char *path;
        DLM_TRY(dlm__hub_fetch(made->client, &made->repo, known ? got->commit : revision, files[i], commit,
                               &path, err));
        got->paths[i] = path;
        got->names[i] = dlm__copy_bytes(files[i], strlen(files[i]));
        got->n++;
        if (got->names[i] == NULL) return dlm__fail_memory(err, files[i], strlen(files[i]));
        memcpy(got->commit, commit, sizeof commit);
        known = true;
    }
    (void)dlm__hub_set_commit(made->storage, made->repo.revision, got->commit, NULL);
    got->folder = dlm__hub_snapshot(made->storage, got->commit, NULL);
    return got->folder != NULL ? DLM_OK : dlm__fail_memory(err, "snapshot", strlen(made->storage));
}

static dlm_status fetch_files(session *made, const char *revision, const char *const *files, size_t n,
                              dlm_hub_files *got, dlm_error *err) {
    got->names = dlm__calloc(n, sizeof *got->names);
    got->paths = dlm__calloc(n, sizeof *got->paths);
    if (got->names == NULL || got->paths == NULL)
        return dlm__fail_memory(err, made->repo.id, n * sizeof *got->names);
    return fetch_all(made, revision, files, n, got, err);
}

/* All files that the repository has. */
static dlm_status fetch_repo(session *made, dlm_hub_files *got, dlm_error *err) {
    dlm_hub_listing listing;
    bool cached;
    DLM_TRY(dlm__hub_list(made->client, &made->repo, &listing, &cached, err));
    dlm_status status =
        fetch_files(made, listing.commit, (const char *const *)listing.names, listing.n, got, err);
    dlm__hub_listing_free(&listing);
    return status;
}

dlm_status dlm_hub_download(const char *repo, const dlm_hub_options *options, const char *const *files,
                            size_t n, dlm_hub_files *got, dlm_error *err) {
    dlm_hub_options defaults = dlm_hub_defaults();
    session made = {0};
    *got = (dlm_hub_files){0};
    dlm_status status = begin(repo, options != NULL ? options : &defaults, &made, err);
    if (status == DLM_OK)
        status =
            n > 0 ? fetch_files(&made, made.repo.revision, files, n, got, err) : fetch_repo(&made, got, err);
    end(&made);
    if (status != DLM_OK) dlm_hub_files_free(got);
    return status;
}

void dlm_hub_files_free(dlm_hub_files *files) {
    for (size_t i = 0; i < files->n; i++) {
        free(files->names[i]);
        free(files->paths[i]);
    }
    free(files->names);
    free(files->paths);
    free(files->folder);
    *files = (dlm_hub_files){0};
}

/* ---- models and tokenizers ---------------------------------------------------------------------------- */

/* What is wanted of a repository, and what it is called. */
typedef enum wanted { MODEL, RAW_MODEL, TOKENIZER } wanted;
static const struct {
    const char *name, *needs;
} words[] = {[MODEL] = {"model", "neither model.safetensors nor final.pt"},
             [RAW_MODEL] = {"model", "neither model.safetensors nor final.pt"},
             [TOKENIZER] = {"tokenizer", "no tokenizer.json"}};

enum { FILES_MOST = 4 };

/* Which of the listed files are wanted: the first of those that there must be one of, then the others that
 * there are; 0: none of the former. */
static size_t choose_files(const dlm_hub_listing *listing, wanted what, const char *chosen[FILES_MOST]) {
    static const char *const needed[][3] = {
        [MODEL] = {"model.safetensors", "final.pt", NULL},
        [RAW_MODEL] = {"raw.safetensors", "final.pt", "model.safetensors"},
        [TOKENIZER] = {"tokenizer.json", NULL, NULL}};
    static const char *const others[][3] = {
        [MODEL] = {"config.json", "tokenizer.json", "tokenizer_config.json"},
        [RAW_MODEL] = {"config.json", "tokenizer.json", "tokenizer_config.json"},
        [TOKENIZER] = {"tokenizer_config.json", NULL, NULL}};
    size_t n = 0;
    for (size_t i = 0; n == 0 && i < 3 && needed[what][i] != NULL; i++) {
        if (dlm__hub_listed(listing, needed[what][i])) chosen[n++] = needed[what][i];
    }
    for (size_t i = 0; n > 0 && i < 3 && others[what][i] != NULL; i++) {
        if (dlm__hub_listed(listing, others[what][i])) chosen[n++] = others[what][i];
    }
    return n;
}

static dlm_status fetch_wanted(session *made, wanted what, char **folder, dlm_error *err) {
    dlm_hub_listing listing;
    bool cached;
    DLM_TRY(dlm__hub_list(made->client, &made->repo, &listing, &cached, err));
    const char *chosen[FILES_MOST];
    const size_t n = choose_files(&listing, what, chosen);
    dlm_hub_files got = {0};
    dlm_status status;
    if (n > 0)
        status = fetch_files(made, listing.commit, chosen, n, &got, err);
    else
        status = dlm__fail(err, DLM_NOT_FOUND, "%s@%s %sholds no %s: %s", made->repo.id, made->repo.revision,
                           cached ? "in the cache " : "", words[what].name, words[what].needs);
    dlm__hub_listing_free(&listing);
    *folder = got.folder;
    got.folder = NULL;
    dlm_hub_files_free(&got);
    return status;
}

static dlm_status find_folder(const char *id, wanted what, dlm_progress progress, void *user, char **folder,
                              dlm_error *err) {
    const dlm_hub_options options = {.kind = DLM_REPO_MODEL, .progress = progress, .user = user};
    session made = {0};
    *folder = NULL;
    dlm_status status = begin(id, &options, &made, err);
    dlm_error why = {0};
    if (status == DLM_OK) {
        status = fetch_wanted(&made, what, folder, &why);
        if (status == DLM_CANCELLED || status == DLM_MEMORY)
            (void)dlm__fail(err, status, "%s", why.message);
        else if (status != DLM_OK)
            (void)dlm__fail(err, status, "%s: no such file or folder, and as a %s of the Hub: %s", id,
                            words[what].name, why.message);
    }
    end(&made);
    return status;
}

static bool ends_with(const char *text, const char *end) {
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

bool dlm__hub_is_model(const char *model) {
    struct stat facts;
    return dlm__hub_is_id(model) && lstat(model, &facts) != 0 && !ends_with(model, ".safetensors") &&
           !ends_with(model, ".pt") && !ends_with(model, ".pth") && !ends_with(model, ".json");
}

dlm_status dlm__hub_model_folder(const char *id, bool raw, dlm_progress progress, void *user, char **folder,
                                 dlm_error *err) {
    return find_folder(id, raw ? RAW_MODEL : MODEL, progress, user, folder, err);
}

dlm_status dlm__hub_tokenizer_folder(const char *id, dlm_progress progress, void *user, char **folder,
                                     dlm_error *err) {
    return find_folder(id, TOKENIZER, progress, user, folder, err);
}
