/* download: files of a repository of the Hub, into the cache. */
#include "commands.h"

#include "json.h"
#include "terminal.h"

#include "diffusionlm.h"

#include <stdio.h>

typedef struct download_settings {
    common shared;
    dlm_hub_options hub;
    bool dataset;
} download_settings;

static void defaults(void *settings) {
    *(download_settings *)settings = (download_settings){.hub = dlm_hub_defaults()};
}

static const option options[] = {
    OPTION_ROW(download_settings, dataset, .name = "dataset", .kind = OPTION_FLAG,
               .help = "REPO is a data set, not a model"),
    OPTION_ROW(download_settings, hub.revision, .name = "revision", .kind = OPTION_TEXT,
               .argument = "REVISION", .help = "a branch, a tag or a commit, as REPO@REVISION; else main"),
    OPTION_ROW(download_settings, shared.json, .name = "json", .kind = OPTION_FLAG,
               .help = "print a line of JSON for each file"),
    {0}};

static int print_files(const dlm_hub_files *files, bool json) {
    int status = EXIT_DONE;
    for (size_t i = 0; i < files->n && status == EXIT_DONE; i++) {
        if (json)
            status = print_json(json_pack("{s:o, s:o, s:s}", "file", json_name(files->names[i]), "path",
                                          json_name(files->paths[i]), "commit", files->commit));
        else
            printf("%s\n", files->paths[i]);
    }
    return status;
}

static int run(const void *given) {
    const download_settings *settings = given;
    const common *shared = &settings->shared;
    dlm_hub_options hub = settings->hub;
    hub.progress = draw_progress;
    if (settings->dataset) hub.kind = DLM_REPO_DATASET;
    catch_signals();
    dlm_error err = {0};
    dlm_hub_files files;
    const dlm_status done = dlm_hub_download(shared->operands[0], &hub, shared->operands + 1,
                                             shared->n_operands - 1, &files, &err);
    clear_status();
    if (done != DLM_OK && stop_signal() != 0) {
        (void)fail("stopped; the same command goes on from here");
        return stop_status();
    }
    if (done != DLM_OK) return fail_in_options(&err);
    const int status = print_files(&files, shared->json);
    dlm_hub_files_free(&files);
    return status;
}

const command command_download = {
    .name = "download",
    .operands = "REPO [FILE...]",
    .min_operands = 1,
    .max_operands = SIZE_MAX,
    .summary = "files of the Hugging Face Hub, into the local cache",
    .description =
        "Downloads files of a repository, or all that it has, and prints where they are. REPO is org/name, "
        "and @REVISION may stand behind it. The cache is that of the Python library huggingface_hub: what is "
        "there already is not transferred again, whoever brought it. A transfer that broke off goes on where "
        "it ended, and a file has its name only when its hash is right. A model of the Hub need not be "
        "downloaded first: -m org/name does so.\n\nThe environment variables of that library count: "
        "HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE and others.",
    .example = "diffusionlm download --dataset roneneldan/TinyStories TinyStoriesV2-GPT4-train.txt",
    .options = options,
    .settings_size = sizeof(download_settings),
    .defaults = defaults,
    .run = run,
};
