/* diffusionlm: masked (absorbing-state) diffusion language models.
 *
 * This header is the manual of the library. It trains byte-level BPE tokenizers, turns text into token
 * shards, trains denoisers on them, measures likelihoods and samples texts.
 *
 * Words used throughout: B sequences, T tokens packed one sequence after the other, L sequence length, C
 * channels (hidden_size), H heads, V vocabulary. Token ids are int32_t, text is UTF-8 in (pointer, bytes) and
 * may hold NUL bytes.
 *
 * Errors. Every call that can fail returns a dlm_status and, in its last argument (which may be NULL), a
 * sentence that names the thing and the numbers. The library never prints, never exits and keeps no global
 * state; progress is a callback that can cancel.
 *
 * Ownership. What a `load`, `create`, `open` or `train` call gives belongs to the caller and is freed by the
 * `free` or `close` of the same noun, which accepts NULL. A `const` pointer that a call returns belongs to
 * the object asked.
 *
 * Threads. A dlm_model and a dlm_tokenizer are constant after they are made and can be used by many threads
 * at once; every other object by one at a time.
 *
 * Options are structs filled by a `dlm_*_defaults()` call and changed field by field; every call that takes
 * one checks it and says what is wrong. */
#ifndef DIFFUSIONLM_H
#define DIFFUSIONLM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define DLM_API __attribute__((visibility("default")))
#else
#define DLM_API
#endif

/* ---- version, errors, machine ------------------------------------------------------------------------- */

#define DLM_VERSION "0.1.0"
/* DLM_VERSION of the library in use. */
DLM_API const char *dlm_version(void);

/* X(name, text): the statuses and their texts. */
#define DLM_STATUSES(X)                                                          \
    X(DLM_OK, "ok")                                                              \
    X(DLM_ARGUMENT, "an argument or option is out of range")                     \
    X(DLM_MEMORY, "out of memory")                                               \
    X(DLM_IO, "reading or writing failed")                                       \
    X(DLM_NOT_FOUND, "no such file or folder")                                   \
    X(DLM_EXISTS, "already there, and not overwritten")                          \
    X(DLM_FORMAT, "a file is malformed, cut off or inconsistent")                \
    X(DLM_MISMATCH, "files that do not belong together")                         \
    X(DLM_UNSUPPORTED, "not supported")                                          \
    X(DLM_CANCELLED, "stopped by the caller")                                    \
    X(DLM_NOT_FINITE, "a value became infinite or not a number")                 \
    X(DLM_COMPUTE, "a compute primitive failed")                                 \
    X(DLM_NETWORK, "a server or another process could not be reached or failed") \
    X(DLM_DENIED, "a server refused access")

typedef enum dlm_status {
#define X(name, text) name,
    DLM_STATUSES(X)
#undef X
} dlm_status;

typedef struct dlm_error {
    dlm_status status;
    char message[500]; /* one sentence, no full stop, no line break */
} dlm_error;

/* The text of a status; of an unknown one "unknown status". */
DLM_API const char *dlm_status_text(dlm_status status);

/* The threads that calls from this thread use: n (at most 256, or the processors if they are more), or all
 * processors for 0. Initially all. */
DLM_API void dlm_set_threads(size_t n);

/* The instruction set that this machine's kernels run with: "avx512_bf16", "avx512", "avx2", "baseline", or
 * "reference" in a build of plain loops alone, no more than oneDNN's variable ONEDNN_MAX_CPU_ISA allows; and
 * the backend of matrix products with its version, such as "oneDNN 2.6.3" or "reference". */
DLM_API const char *dlm_instruction_set(void);
DLM_API const char *dlm_backend(void);

/* Frees text, ids and other plain memory that a call of this library allocated for the caller. Accepts NULL.
 */
DLM_API void dlm_free(void *memory);

/* Progress of long calls: `done` of `total` units (0: unknown) of the named stage, after `seconds`. Returning
 * true cancels: the call cleans up and returns DLM_CANCELLED. Called from the calling thread, at most some
 * times a second. */
typedef bool (*dlm_progress)(void *user, const char *stage, uint64_t done, uint64_t total, double seconds);

/* ---- text documents ----------------------------------------------------------------------------------- */

/* Reads the documents of text files one after the other in bounded memory (that of the longest document).
 * Files whose bytes begin as gzip or Zstandard do are decompressed, whatever their name; "-" is standard
 * input. */
typedef enum dlm_text_format {
    DLM_TEXT_SEPARATED, /* between lines that are <|endoftext|>; white space around a document is dropped,
                           empty ones too */
    DLM_TEXT_LINES,     /* one a line, without its line end; empty lines are none */
    DLM_TEXT_JSONL, /* the string `field` of the JSON object in each line, exactly as it stands; blank lines
                       are none */
    DLM_TEXT_WHOLE  /* each file one document, as it stands */
} dlm_text_format;

typedef struct dlm_text_options {
    dlm_text_format format; /* DLM_TEXT_SEPARATED */
    const char *field;      /* "text": the field of DLM_TEXT_JSONL */
    bool replace_invalid;   /* false: bytes that are no UTF-8 are an error that names file and byte offset;
                               true: one U+FFFD for each maximal invalid part */
    size_t max_bytes; /* 2^30, which 0 stands for too: a longer document, or line of JSON, is an error, so
                         that no input fills the memory */
} dlm_text_options;
DLM_API dlm_text_options dlm_text_defaults(void);

typedef struct dlm_documents dlm_documents;
/* paths (n) must stay until close. Files are opened when their turn comes. */
DLM_API dlm_status dlm_documents_open(const char *const *paths, size_t n, const dlm_text_options *options,
                                      dlm_documents **documents, dlm_error *err);
/* The next document: *text (bytes long, no 0 behind it) belongs to documents until the next call. At the end
 * *text is NULL. */
DLM_API dlm_status dlm_documents_next(dlm_documents *documents, const char **text, size_t *bytes,
                                      dlm_error *err);
/* Input bytes consumed so far (compressed ones where the file is), and those of all files; 0 when a pipe
 * makes that unknown. */
DLM_API void dlm_documents_position(const dlm_documents *documents, uint64_t *done, uint64_t *total);
DLM_API void dlm_documents_close(dlm_documents *documents);

/* ---- tokenizer ---------------------------------------------------------------------------------------- */

/* Byte-level BPE as Hugging Face `tokenizers` computes it; reads and writes its tokenizer.json. */
typedef struct dlm_tokenizer dlm_tokenizer;

typedef struct dlm_tokenizer_info {
    size_t vocab_size; /* ids run from 0 to vocab_size - 1 */
    size_t merges, added_tokens;
    int32_t pad_id, unk_id, mask_id, end_id; /* [PAD], [UNK], [MASK], <|endoftext|>; -1 where there is none */
    uint64_t hash;                           /* over tokens, merges and added tokens (not the file's bytes) */
    bool add_prefix_space;
} dlm_tokenizer_info;

/* From a tokenizer.json, or a folder that holds one. Where no such path exists, the id of a repository on the
 * Hub that has one, "org/name" or "name", either with "@revision": tokenizer.json and tokenizer_config.json
 * of it are downloaded as dlm_hub_download does. */
DLM_API dlm_status dlm_tokenizer_load(const char *path, dlm_tokenizer **tokenizer, dlm_error *err);
/* From n bytes of a tokenizer.json; name is for messages. */
DLM_API dlm_status dlm_tokenizer_parse(const char *name, const char *json, size_t n,
                                       dlm_tokenizer **tokenizer, dlm_error *err);
/* Writes tokenizer.json and tokenizer_config.json (made when absent) into dir, which is made when absent. */
DLM_API dlm_status dlm_tokenizer_save(const dlm_tokenizer *tokenizer, const char *dir, dlm_error *err);
DLM_API void dlm_tokenizer_free(dlm_tokenizer *tokenizer);
DLM_API dlm_tokenizer_info dlm_tokenizer_describe(const dlm_tokenizer *tokenizer);

typedef struct dlm_bpe_options {
    size_t vocab_size;      /* 8192 (at least 260: four special tokens and 256 bytes) */
    uint64_t min_frequency; /* 0: pairs less frequent are not merged */
    dlm_progress progress;  /* NULL */
    void *user;
    size_t max_token_length; /* 2^16, which 0 stands for too: two tokens merge only where they have fewer
                                bytes together (the Hugging Face trainer's max_token_length) */
} dlm_bpe_options;
DLM_API dlm_bpe_options dlm_bpe_defaults(void);
/* Trains on all documents (spec: merges and ids as the Hugging Face trainer's); memory grows with the number
 * of distinct words and pairs, the result is the same for any number of threads. */
DLM_API dlm_status dlm_tokenizer_train(dlm_documents *documents, const dlm_bpe_options *options,
                                       dlm_tokenizer **tokenizer, dlm_error *err);

/* Ids of the text (UTF-8, checked); *ids gets *n ids, freed with dlm_free. added_tokens: cut added tokens
 * such as [MASK] out of the text first, as the Hugging Face library does; false takes them as plain text. */
DLM_API dlm_status dlm_tokenizer_encode(const dlm_tokenizer *tokenizer, const char *text, size_t bytes,
                                        bool added_tokens, int32_t **ids, size_t *n, dlm_error *err);
/* Text of n ids; *text gets *bytes bytes and a 0 behind them, freed with dlm_free. Invalid UTF-8 becomes
 * U+FFFD. An id outside the vocabulary is an error. The leading space that encoding added stays. */
DLM_API dlm_status dlm_tokenizer_decode(const dlm_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                        bool skip_special, char **text, size_t *bytes, dlm_error *err);
/* The raw bytes that an id stands for (not always whole characters; those of an added token are its content),
 * valid as long as the tokenizer. NULL for an id outside the vocabulary. */
DLM_API const char *dlm_tokenizer_token(const dlm_tokenizer *tokenizer, int32_t id, size_t *bytes,
                                        bool *special);

/* ---- token shards ------------------------------------------------------------------------------------- */

typedef struct dlm_prepare_options {
    size_t seq_len; /* 256: documents of more tokens (the end token counted) are marked as consecutive windows
                       of this */
    size_t shard_tokens;   /* 2^26: a shard is closed after the document that reaches this */
    bool overwrite;        /* false: an existing DATA folder is an error */
    dlm_progress progress; /* NULL */
    void *user;
} dlm_prepare_options;
DLM_API dlm_prepare_options dlm_prepare_defaults(void);

typedef struct dlm_data_info {
    uint64_t documents, tokens, bytes; /* tokens without end tokens; bytes of UTF-8 text */
    uint64_t longest;                  /* tokens of the longest document */
    uint64_t split;                    /* documents of more than one window */
    uint64_t windows;
    size_t seq_len, shards;
    uint64_t vocabulary_hash;
} dlm_data_info;

/* Encodes all documents (special tokens in them as plain text) into a new folder `data`, in their order, on
 * all threads. An interrupted run leaves nothing under that name. info may be NULL. */
DLM_API dlm_status dlm_prepare(dlm_documents *documents, const dlm_tokenizer *tokenizer, const char *data,
                               const dlm_prepare_options *options, dlm_data_info *info, dlm_error *err);

typedef struct dlm_data dlm_data;
/* Opens a DATA folder and checks every shard (size, header, checksum). */
DLM_API dlm_status dlm_data_open(const char *path, dlm_data **data, dlm_error *err);
DLM_API void dlm_data_close(dlm_data *data);
DLM_API dlm_data_info dlm_data_describe(const dlm_data *data);
DLM_API const dlm_tokenizer *dlm_data_tokenizer(const dlm_data *data);

/* ---- the Hugging Face Hub ----------------------------------------------------------------------------- */

typedef enum dlm_repo_kind { DLM_REPO_MODEL, DLM_REPO_DATASET } dlm_repo_kind;

typedef struct dlm_hub_options {
    dlm_repo_kind kind; /* MODEL */
    const char
        *revision; /* NULL: the one behind '@' in the id, or else "main"; a branch, a tag or a commit */
    dlm_progress progress; /* NULL; each file is a stage by its name, in bytes that are still to come */
    void *user;
} dlm_hub_options;
DLM_API dlm_hub_options dlm_hub_defaults(void);

/* Files in the cache. */
typedef struct dlm_hub_files {
    char *folder;    /* of the snapshot, which has the files by their names in the repository */
    char commit[41]; /* of the repository, 40 hexadecimal digits */
    size_t n;
    char **names, **paths; /* (n) */
} dlm_hub_files;
/* Downloads n files (0: all) of a repository "org/name", "name" or either with "@revision", all of one
 * commit, into the cache of the Python library huggingface_hub, where each side finds what the other brought.
 * What is there is not transferred again; a transfer that broke off goes on where it ended; no file has its
 * name before its hash (SHA-256, or git's SHA-1) is that of the Hub. Where the Hub cannot be asked, or
 * refuses, the files as they were last downloaded. Read are the variables HF_ENDPOINT (https, but for an
 * http:// there), HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE,
 * HF_HUB_ETAG_TIMEOUT, HF_HUB_DOWNLOAD_TIMEOUT, SSL_CERT_FILE and those of proxies; the token goes to the
 * endpoint alone. DLM_NETWORK (DLM_IO for a full disk); DLM_DENIED; DLM_NOT_FOUND for repository, revision or
 * file; DLM_FORMAT for a wrong hash; DLM_CANCELLED. Free with dlm_hub_files_free, also what a failed call
 * left. */
DLM_API dlm_status dlm_hub_download(const char *repo, const dlm_hub_options *options,
                                    const char *const *files, size_t n, dlm_hub_files *got, dlm_error *err);
DLM_API void dlm_hub_files_free(dlm_hub_files *files);

/* ---- models ------------------------------------------------------------------------------------------- */

typedef enum dlm_time { DLM_TIME_NONE, DLM_TIME_ADALN } dlm_time;                    /* "none", "adaln" */
typedef enum dlm_position { DLM_POSITION_BOTH, DLM_POSITION_LEARNED } dlm_position;  /* "both", "learned" */
typedef enum dlm_schedule { DLM_SCHEDULE_COSINE, DLM_SCHEDULE_LINEAR } dlm_schedule; /* "cosine", "linear" */
typedef enum dlm_recipe { DLM_RECIPE_DEFAULT, DLM_RECIPE_ORIGINAL } dlm_recipe; /* "default", "original" */
typedef enum dlm_weights { DLM_WEIGHTS_EMA, DLM_WEIGHTS_RAW } dlm_weights;      /* "ema", "raw" */
/* What the operands of matrix products are. AUTO: I8 for a file that holds that, else bf16 where the
 * processor multiplies it, else f32. I8: of the matrices that multiply tokens (queries, keys and values,
 * projection, MLP, final layer) each row is held in 8 bits with a scale of its own, as is each token's state
 * when it comes to them; sums are exact, and all else is as with AUTO. It is for models that are used, not
 * trained, and moves a NELBO by less than 0.5 %. */
typedef enum dlm_precision {
    DLM_PRECISION_AUTO,
    DLM_PRECISION_F32,
    DLM_PRECISION_BF16,
    DLM_PRECISION_INT8
} dlm_precision;

typedef struct dlm_config {
    size_t vocab_size, max_seq_len, hidden_size, depth, num_heads;
    double mlp_ratio;
    dlm_time time;
    dlm_position position;
    /* How it was trained; where a file does not say: cosine, no end token, padded, 0, original. */
    dlm_schedule schedule;
    bool end_token;    /* sequences end with the tokenizer's end token */
    bool padded;       /* trained on sequences padded to one length */
    double tail_share; /* share of sequences that were longer than their document, the rest end tokens */
    dlm_recipe recipe;
} dlm_config;

typedef struct dlm_model dlm_model;

typedef struct dlm_model_options {
    dlm_weights
        weights; /* EMA; of a model folder model.safetensors or raw.safetensors, of a .pt "model" or "raw" */
    dlm_precision precision; /* AUTO */
    const char
        *tokenizer; /* NULL: the one beside the model, if there is one; else what dlm_tokenizer_load takes */
    int schedule;   /* -1: the model's own; else a dlm_schedule that overrides it */
    size_t heads;   /* 0: as its config says; else the heads of a state dict that comes without config */
    dlm_progress progress; /* NULL; of a download from the Hub, as in dlm_hub_options */
    void *user;
} dlm_model_options;
DLM_API dlm_model_options dlm_model_defaults(void);

/* From a model folder, a run folder (its newest checkpoint), a .safetensors file with config.json or the
 * metadata key "config", or a checkpoint of torch.save (.pt): {"model", "raw", "config"}, of which "raw" or
 * "config" may be absent, or a state dict alone. Without "config" and config.json its sizes are those of its
 * tensors, and the number of heads is to be given. Nothing in a .pt is executed. Where no such path exists,
 * the id of a model on the Hub, "org/name" or "name", either with "@revision", which is downloaded as
 * dlm_hub_download does. */
DLM_API dlm_status dlm_model_load(const char *path, const dlm_model_options *options, dlm_model **model,
                                  dlm_error *err);
DLM_API void dlm_model_free(dlm_model *model);
DLM_API const dlm_config *dlm_model_config(const dlm_model *model);
/* NULL when it has none. */
DLM_API const dlm_tokenizer *dlm_model_tokenizer(const dlm_model *model);
DLM_API dlm_precision dlm_model_precision(const dlm_model *model);
/* The file that the weights came from. */
DLM_API const char *dlm_model_source(const dlm_model *model);
/* How its parameters are stored there: "int8" where the matrices that can be are; as dlm_parameter has it
 * where all are alike; else "mixed". NULL: not from a file. */
DLM_API const char *dlm_model_stored(const dlm_model *model);
/* Document lengths seen in training: counts[i] documents of i tokens with the end token, i = 0 .. *n - 1 (*n
 * is max_seq_len + 1; longer documents count as max_seq_len). NULL when the model has none. */
DLM_API const uint64_t *dlm_model_lengths(const dlm_model *model, size_t *n);

/* One parameter: dims (ndim) as stored, the last contiguous. */
typedef struct dlm_parameter {
    const char *name;
    size_t ndim, shape[3], count;
    const float *values; /* as dlm_model_values has them; NULL where it fails */
    const char *stored;  /* how its file has it: "float32", "bfloat16", "float16", "float64" or "int8"; NULL:
                            no file */
} dlm_parameter;
DLM_API size_t dlm_model_parameters(const dlm_model *model);
DLM_API dlm_parameter dlm_model_parameter(const dlm_model *model, size_t i);
/* The same but for the values, which are NULL: nothing is read or made for it. */
DLM_API dlm_parameter dlm_model_describe_parameter(const dlm_model *model, size_t i);
/* The values of parameter i as float32, which belong to the model. Those of matrices that are multiplied in
 * bfloat16 or in 8 bits are not in memory until they are asked for, and stay there from then on: a model of a
 * file of safetensors keeps it open, and reads them from it, exactly as they were. It may have been removed
 * or replaced by another meanwhile, as saving does; where it was itself written to or cut, they cannot be
 * read (DLM_IO), which does not harm the model. */
DLM_API dlm_status dlm_model_values(const dlm_model *model, size_t i, const float **values, dlm_error *err);

/* Logits (T, V) of B packed sequences: ids (T) with T the sum of lengths (B), times (B) in [0, 1] (not read
 * by a model without time conditioning; may be NULL then). Allocates its workspace for the call. */
DLM_API dlm_status dlm_model_logits(const dlm_model *model, const int32_t *ids, const size_t *lengths,
                                    size_t B, const float *times, float *logits, dlm_error *err);

/* A model with the random weights that training begins with, and no tokenizer. */
DLM_API dlm_status dlm_model_random(const dlm_config *config, dlm_precision precision, uint64_t seed,
                                    dlm_model **model, dlm_error *err);

/* Config, parameters and tokenizer of a model, read without its weights. Of a state dict that comes without
 * config the number of heads stays unknown, num_heads 0, unless options give it. Free the model as usual. */
DLM_API dlm_status dlm_model_inspect(const char *path, const dlm_model_options *options, dlm_model **model,
                                     dlm_error *err);

/* How values are stored in a file. */
typedef enum dlm_numbers {
    DLM_NUMBERS_F32,
    DLM_NUMBERS_BF16,
    DLM_NUMBERS_F16,
    DLM_NUMBERS_INT8 /* the matrices of DLM_PRECISION_INT8 in 8 bits, the rest f32; not in a .pt */
} dlm_numbers;

typedef struct dlm_save_options {
    dlm_numbers numbers; /* F32; others round to the nearest, and refuse what would become infinite */
    bool overwrite; /* false: an existing file or folder is an error; true: a file, or a model folder that is
                       no checkpoint of a run, is replaced when the new one is whole */
} dlm_save_options;
DLM_API dlm_save_options dlm_save_defaults(void);
/* Writes a model. A path that ends in .pt or .pth becomes a checkpoint as the original's, which torch.load
 * reads (weights_only=True): {"model", "config"}, and "diffusionlm" with what the original does not know; in
 * .safetensors a safetensors file with all of the config in its metadata "config"; any other a model folder
 * with the tokenizer. Nothing half-written ever has that name. */
DLM_API dlm_status dlm_model_save(const dlm_model *model, const char *path, const dlm_save_options *options,
                                  dlm_error *err);

typedef struct dlm_convert_options {
    dlm_model_options model; /* how `from` is read: which weights, tokenizer, schedule, heads */
    bool both; /* true: of a .pt or folder with raw weights besides the average both are written, where `to`
    can hold both (all but .safetensors); false: those of model.weights alone */
    dlm_save_options save;
} dlm_convert_options;
DLM_API dlm_convert_options dlm_convert_defaults(void);
/* Reads what dlm_model_load reads and writes what dlm_model_save writes, with one tensor at a time in memory.
 * The two may be the same. */
DLM_API dlm_status dlm_model_convert(const char *from, const char *to, const dlm_convert_options *options,
                                     dlm_error *err);

/* ---- sampling ----------------------------------------------------------------------------------------- */

/* Which masked positions a step reveals, docs/sampling.md has the laws and their sources. CONFIDENCE: those
 * of the largest probability; CONFIDENCE_WEIGHTED: drawn by it; RANDOM: uniformly; MARGIN: where the most
 * probable token is farthest before the second; ENTROPY: of the lowest entropy; LEFT_TO_RIGHT: the first
 * ones; ANCESTRAL: each one independently, as the masking process itself has it; FIRST_HITTING: one at a
 * time, at the process' own times: the limit of ANCESTRAL for many steps, with no more passes than positions.
 */
typedef enum dlm_order {
    DLM_ORDER_CONFIDENCE,
    DLM_ORDER_CONFIDENCE_WEIGHTED,
    DLM_ORDER_RANDOM,
    DLM_ORDER_MARGIN,
    DLM_ORDER_ENTROPY,
    DLM_ORDER_LEFT_TO_RIGHT,
    DLM_ORDER_ANCESTRAL,
    DLM_ORDER_FIRST_HITTING
} dlm_order;
typedef enum dlm_reveal { DLM_REVEAL_COSINE, DLM_REVEAL_LINEAR } dlm_reveal;
typedef enum dlm_corrector { DLM_CORRECTOR_RANDOM, DLM_CORRECTOR_LOW_CONFIDENCE } dlm_corrector;
/* How the order ANCESTRAL masks revealed positions again (ReMDM, Wang et al. 2025): with a probability of at
 * most eta (CAP), of eta times the largest possible (RESCALE), that times a share by how unsure each token
 * was (CONF), or of eta while the time stands still (LOOP). */
typedef enum dlm_remask {
    DLM_REMASK_NONE,
    DLM_REMASK_CAP,
    DLM_REMASK_RESCALE,
    DLM_REMASK_CONF,
    DLM_REMASK_LOOP
} dlm_remask;

/* Which tokens may stand at `position` of sequence `sequence` (0 .. n - 1 of the call), whose ids so far are
 * ids (its length): sets those of allowed (V), all 1 when called, to 0 that may not. Banned ids stay banned;
 * at least one other must be left. Called by the calling thread for each position before each of its draws.
 */
typedef void (*dlm_allow_callback)(void *user, size_t sequence, size_t position, const int32_t *ids,
                                   uint8_t *allowed);

/* What a step callback sees and may change: n sequences, packed; sequence b is positions offsets[b] ..
 * offsets[b+1] - 1. */
typedef struct dlm_sample_step {
    size_t step, steps; /* steps done, of how many */
    size_t n;
    const size_t *offsets; /* (n + 1) */
    int32_t *ids;         /* (T) may be changed, to the mask id too; a change at a fixed position is undone */
    float *confidence;    /* (T) of each position at its commitment; 0 while masked and where given, 1 where
                             fixed; may be changed within [0, 1] */
    const uint8_t *fixed; /* (T) 1: given, never changed */
    const double *times;  /* (n) t at which each sequence last went through the model */
    size_t forwards;      /* forward passes so far */
    int32_t mask_id;
    size_t first; /* the index of the sample that sequence 0 is */
    size_t tries; /* of dlm_fill: sample i is candidate i % tries of text i / tries; elsewhere 1 */
} dlm_sample_step;
/* Called after every step, before the first one too (step 0). Returning true stops: what is revealed stays as
 * it is, and the call returns DLM_OK. Positions that it masks at the last step are committed in one more,
 * after which its changes stay as they are. */
typedef bool (*dlm_step_callback)(void *user, const dlm_sample_step *step);

typedef struct dlm_sample_options {
    uint64_t seed;      /* 0 */
    size_t steps;       /* 0: each sequence as many as it has positions; FIRST_HITTING takes no other */
    double max_seconds; /* 0: no limit; else what is masked when the time is nearly up is revealed at once,
                           and before that a step reveals as many as the clock asks. Not repeatable then */
    /* Which tokens. Probabilities are of the softmax at this temperature, of what is neither banned nor
     * disallowed; confidence, margin and entropy refer to them too. */
    double temperature;        /* 0.9; 0: the most probable token, with confidences as at 1 */
    size_t top_k;              /* 0: off; else only the k most probable tokens are drawn, renormalised; */
    double top_p;              /* 1: off; of these the fewest that have this share of their probability; */
    double min_p;              /* 0: off; of these the ones at least this times as probable as the first */
    double repetition_penalty; /* 1: off; logits of tokens that the sequence has, special ones excepted, are
                                  divided by it where positive, multiplied where negative (Keskar et al.,
                                  CTRL, 2019) */
    double guidance;           /* 0: off; w adds w times the logits' difference from those with the fixed
                                  positions masked (classifier-free guidance; Nie et al. 2025), in a second
                                  pass each; DLM_ARGUMENT where nothing is fixed */
    const int32_t *banned;     /* (banned_n) ids never drawn, besides [MASK], [PAD] and [UNK] */
    size_t banned_n;
    dlm_allow_callback allow; /* NULL */
    void *allow_user;
    /* How many positions a step reveals, and which */
    dlm_order order;             /* CONFIDENCE */
    dlm_reveal reveal;           /* COSINE: L (1 - cos(pi/2 r)) of the positions revealed at r = step/steps;
                                    LINEAR: L r */
    size_t reveals_per_step;     /* 0: by steps and reveal; else each step reveals so many, the last one what
                                    is left, and steps is 0: it follows */
    double confidence_threshold; /* -1: off; else in [0, 1]: commit all at least as confident, and at least
                                    one */
    double entropy_bound;        /* -1: off; else in nats: commit those of the lowest entropy while the sum of
                                    their entropies is at most this, and at least one */
    /* What is masked again */
    double corrector_frac;        /* 0: off */
    size_t corrector_every;       /* 2 */
    dlm_corrector corrector_mode; /* RANDOM */
    dlm_remask remask;            /* NONE */
    double eta;                   /* -1: 0.02, with CONF 1 */
    dlm_step_callback on_step;    /* NULL */
    void *user;
} dlm_sample_options;
DLM_API dlm_sample_options dlm_sample_defaults(void);

/* Fills the masked positions of n packed sequences (lengths (n), ids (T), in place). fixed (T) or NULL marks
 * positions that are given for good; every other position may be remasked by the corrector once committed,
 * and a token given there has confidence 0, so that the corrector takes it first. Sample b draws from (seed,
 * first + b) alone. confidence (T) may be NULL. *forwards (may be NULL) gets the number of passes. Never
 * yields [MASK], [PAD] or [UNK]. DLM_ARGUMENT: options that are out of range or exclude each other
 * (docs/sampling.md), a length that is not from 1 to max_seq_len, an id outside the vocabulary, a position
 * without an allowed token; DLM_NOT_FINITE: probabilities that are none. ids are as far as they came then. */
DLM_API dlm_status dlm_sample(const dlm_model *model, const dlm_sample_options *options, size_t first,
                              size_t n, const size_t *lengths, int32_t *ids, const uint8_t *fixed,
                              float *confidence, size_t *forwards, dlm_error *err);

typedef struct dlm_refine_options {
    uint64_t seed;         /* 0 */
    size_t passes;         /* 8 */
    double frac;           /* 0.15: each free position is masked with this probability */
    double temperature;    /* 0.9 */
    bool low_confidence;   /* false; true: the share frac of the free positions (at least one) of the lowest
                              confidence is masked instead. That of a given token is its probability when a
                              quarter of the free positions is masked, later as in dlm_sample */
    const int32_t *banned; /* (banned_n) ids never drawn, besides [MASK], [PAD] and [UNK] */
    size_t banned_n;
    dlm_allow_callback allow; /* NULL */
    void *allow_user;
    size_t context; /* 0: half of max_seq_len; how many positions of a window of a longer text are not
                       refined, but seen: half of them on either side */
    dlm_step_callback on_step;
    void *user;
} dlm_refine_options;
DLM_API dlm_refine_options dlm_refine_defaults(void);
/* Remasks and resamples n packed texts in place; arguments as dlm_sample, but that lengths may be of any
 * size. A longer text than max_seq_len is refined in windows, from its begin to its end, all passes of one
 * after the other; where there is one, the texts are refined one by one, and the callbacks see one at a time.
 * Positions that are masked are resampled with the first pass. */
DLM_API dlm_status dlm_refine(const dlm_model *model, const dlm_refine_options *options, size_t first,
                              size_t n, const size_t *lengths, int32_t *ids, const uint8_t *fixed,
                              dlm_error *err);

/* As dlm_sample, of one sequence of any length n: where that is more than max_seq_len it is filled block by
 * block, in windows of max_seq_len that begin `context` tokens before the first mask (0: half of
 * max_seq_len; where the last window has room for more, more). What stands before that mask is fixed in the
 * window, what stands behind the window is not seen. The end token is not drawn before the last window. Block
 * 0 draws from (seed, index) as dlm_sample does, block j > 0 from streams of its own. options->steps is of
 * each block (where that begins with context, each step reveals equally many), max_seconds of all. The
 * callbacks see the whole sequence; what a step callback changes outside the window is undone. */
DLM_API dlm_status dlm_sample_blocks(const dlm_model *model, const dlm_sample_options *options,
                                     size_t context, size_t index, size_t n, int32_t *ids,
                                     const uint8_t *fixed, size_t *forwards, dlm_error *err);

/* A length for sample `index`, drawn from the model's histogram by (seed, index); without one, min(80,
 * max_seq_len). */
DLM_API size_t dlm_sample_length(const dlm_model *model, uint64_t seed, size_t index);
/* The text of a sample (freed with dlm_free): up to the first end token when the model has one, without
 * special tokens and the one leading space. Needs the model's tokenizer. */
DLM_API dlm_status dlm_sample_text(const dlm_model *model, const int32_t *ids, size_t n, char **text,
                                   size_t *bytes, dlm_error *err);

/* ---- templates ---------------------------------------------------------------------------------------- */

/* A text with blanks to fill in. Its fixed parts come back byte for byte in dlm_sample_text, and are encoded
 * as in running text: a space before a blank belongs to the blank, whose first token then has to begin with
 * one. A template that knows its end (one that was parsed, or has a suffix) is the whole text: a fixed end
 * token stands behind it where the model knows one, and none may stand in its blanks. */
typedef struct dlm_template dlm_template;

/* So many tokens fill a blank; most 0: any number. */
typedef struct dlm_blank {
    size_t least, most;
    bool space; /* the first one begins with a space */
} dlm_blank;

/* Text (UTF-8) with masks in it: [MASK] is a blank of one token, [MASK:8] of 8, [MASK:20-60] of any number
 * between. DLM_ARGUMENT, by the place in bytes: a malformed mask, none, a special token, more tokens than the
 * model takes, empty text, a model without a tokenizer; DLM_FORMAT: not UTF-8. model is borrowed and has to
 * outlive *parsed, which dlm_template_free frees. */
DLM_API dlm_status dlm_template_parse(const dlm_model *model, const char *text, size_t bytes,
                                      dlm_template **parsed, dlm_error *err);
/* A prompt (or NULL), a blank of any number of tokens, a suffix (or NULL). [MASK] in them is plain text. As
 * dlm_template_parse; how long it may be is up to what fills it. */
DLM_API dlm_status dlm_template_around(const dlm_model *model, const char *prompt, size_t prompt_bytes,
                                       const char *suffix, size_t suffix_bytes, dlm_template **made,
                                       dlm_error *err);
DLM_API void dlm_template_free(dlm_template *text);

/* How many blanks; *blanks (may be NULL) gets them. */
DLM_API size_t dlm_template_blanks(const dlm_template *text, const dlm_blank **blanks);
/* Writes ids and fixed (NULL: does not) with lengths[i] masks for blank i, as dlm_sample takes them; returns
 * how many positions that are. */
DLM_API size_t dlm_template_layout(const dlm_template *text, const size_t *lengths, int32_t *ids,
                                   uint8_t *fixed);
/* The allow callback for sequences that are all of this layout; its user is a dlm_template_choice. */
typedef struct dlm_template_choice {
    const dlm_template *text;
    const size_t *lengths; /* of the blanks */
} dlm_template_choice;
DLM_API void dlm_template_allow(void *choice, size_t sequence, size_t position, const int32_t *ids,
                                uint8_t *allowed);

typedef struct dlm_fill_options {
    dlm_sample_options sample; /* max_seconds is of the whole call; the callbacks' sequence b is candidate b
                                  of those sampled at once */
    size_t length;  /* 0: by the blanks; where one is of any number, drawn (dlm_sample_length). Else tokens of
                       the whole text, its end included; beyond max_seq_len it is written block by block */
    size_t tries;   /* 0: 8 where a blank has a range, else 1. Of so many candidates for each text the one of
                       the least NELBO per token is kept. Lengths of ranges: all, if they are no more; else
                       spread evenly over each */
    size_t draws;   /* 16: masks of each candidate for its NELBO; with max_seconds fewer, if these would take
                       more than half of that */
    size_t context; /* 0: half of max_seq_len, for dlm_sample_blocks */
    size_t at_once; /* 0: all candidates of the call are sampled together; else at most so many */
    dlm_progress progress; /* NULL; while candidates are scored: stage "choose", in masks */
    void *progress_user;
} dlm_fill_options;
DLM_API dlm_fill_options dlm_fill_defaults(void);

/* What became of a text. */
typedef struct dlm_filled {
    size_t length;         /* tokens */
    size_t candidate;      /* the one that was kept, 0 .. tries - 1 */
    double nats_per_token; /* its NELBO, up to its first end token; not a number (NAN) when there was one */
} dlm_filled;

/* Fills text (NULL: nothing is given, and the length any) n times. Text b is a function of (seed, first + b):
 * its candidate k is sample (first + b) tries + k of that seed. filled (n); *ids gets the ids of the texts,
 * packed, freed with dlm_free; *forwards (may be NULL) the passes of sampling. A step callback that stops:
 * DLM_CANCELLED. */
DLM_API dlm_status dlm_fill(const dlm_model *model, const dlm_template *text, const dlm_fill_options *options,
                            size_t first, size_t n, dlm_filled *filled, int32_t **ids, size_t *forwards,
                            dlm_error *err);

/* ---- likelihood --------------------------------------------------------------------------------------- */

/* Whether the masks of a text are drawn one by one, or in pairs that together mask every token
 * (docs/likelihood.md).
 */
typedef enum dlm_masks {
    DLM_MASKS_AUTO,         /* pairs where draws are even and at least 4, else one by one */
    DLM_MASKS_INDEPENDENT,  /* one by one */
    DLM_MASKS_COMPLEMENTARY /* pairs: draws must be even; a pair is one observation, so from 2 draws there is
                               no standard error of the masks */
} dlm_masks;

typedef struct dlm_eval_options {
    uint64_t
        seed; /* 1: the masks are a function of it, the window and the draw alone, the same for every model */
    size_t draws;         /* 2 masks of each window; a standard error of the masks takes at least 2 */
    dlm_masks masks;      /* AUTO */
    bool exact;           /* false; true: all masks of each window, which may have at most 20 tokens; draws is
                             not read */
    size_t seq_len;       /* 0: the model's max_seq_len */
    size_t max_documents; /* 0: all */
    dlm_progress progress;
    void *user;
} dlm_eval_options;
DLM_API dlm_eval_options dlm_eval_defaults(void);

/* NELBO of the texts. The standard errors and 95 % intervals (Student's t) are of nelbo: those of the masks
 * tell how far it may be from the NELBO of just these documents, because masks were drawn; those of the
 * documents, from that of all documents of which these are a sample, masks included. Not a number (NAN) where
 * the data do not tell: of one draw or one pair, of one document. */
typedef struct dlm_bound {
    double nelbo; /* nats per token, by exact mask counts */
    double standard_error, interval[2];
    double standard_error_documents, interval_documents[2];
    double bits_per_byte;
    uint64_t tokens; /* that are scored */
} dlm_bound;

typedef struct dlm_eval_result {
    double eval_ce,
        perplexity; /* the original's: t drawn, cross-entropy over all masked positions; no bound */
    dlm_bound all;  /* of all tokens, the end token too where the model has one */
    dlm_bound text; /* the same passes without the end tokens' own part, which the model may see still;
                       without end tokens as all */
    bool end_token; /* the end token is scored in all */
    bool exact;     /* by all masks: standard_error is 0 */
    uint64_t documents, windows, bytes;
    double seconds;
} dlm_eval_result;
/* Measures model on the documents of data, made with the same vocabulary. Windows as in training (end token
 * and windows of long documents, or cut and padded, as the model's config says), no tails. */
DLM_API dlm_status dlm_eval(const dlm_model *model, const dlm_data *data, const dlm_eval_options *options,
                            dlm_eval_result *result, dlm_error *err);
/* Two models on the same windows (by default as long as both take) and masks: results (2), and in *difference
 * what the second has more than the first. Its standard errors and intervals are of the difference of nelbo,
 * from pairs of draws, so smaller than those of models measured apart; its counts are those of each.
 * DLM_MISMATCH when one scores the end token or pads and the other does not. */
DLM_API dlm_status dlm_eval_pair(const dlm_model *first, const dlm_model *second, const dlm_data *data,
                                 const dlm_eval_options *options, dlm_eval_result results[2],
                                 dlm_eval_result *difference, dlm_error *err);

/* Cross-entropy where a share of the tokens is masked: nats per masked token, with the same two kinds of
 * standard errors and intervals as dlm_bound. */
typedef struct dlm_curve_point {
    double ratio, cross_entropy;
    double standard_error, interval[2];
    double standard_error_documents, interval_documents[2];
} dlm_curve_point;
/* The cross-entropy at n ratios (n), each above 0 and at most 1: of each window of m tokens round(ratio m),
 * but at least one, are masked, `draws` times; points (n). The model is told t = sigma^-1(masked / m). What
 * else options say is as for dlm_eval; masks and exact are not read. The masks are the same for every model.
 */
DLM_API dlm_status dlm_eval_curve(const dlm_model *model, const dlm_data *data,
                                  const dlm_eval_options *options, size_t n, const double *ratios,
                                  dlm_curve_point *points, dlm_error *err);

typedef struct dlm_nelbo_options {
    uint64_t seed;   /* 1: the masks are a function of it, the sequence's index and the draw alone */
    size_t draws;    /* 16 masks of each sequence; a standard error takes at least 2, and is good from 8 on */
    dlm_masks masks; /* AUTO */
    bool exact;      /* false; true: all masks of each sequence (at most 20 tokens), draws is not read */
    dlm_progress progress; /* NULL; stage "nelbo", in masks */
    void *user;
} dlm_nelbo_options;
DLM_API dlm_nelbo_options dlm_nelbo_defaults(void);
/* NELBO in nats, an upper bound of the negative log-likelihood, of each of n packed sequences: lengths (n)
 * from 1 to max_seq_len, ids (T) the sum of them, without masks; nats (n). Every id counts, an end token too;
 * no padding is shown. standard_errors (n) or NULL gets how far each may be from the NELBO because masks were
 * drawn: 0 where exact, not a number (NAN) of one draw or one pair, and from few draws rather too large
 * (those of neighbouring strata are taken together; Cochran, Sampling techniques, 1977, section 5A.12). The
 * result of a sequence does not depend on the others, but for its index (and rounding). */
DLM_API dlm_status dlm_nelbo(const dlm_model *model, const dlm_nelbo_options *options, size_t n,
                             const size_t *lengths, const int32_t *ids, double *nats, double *standard_errors,
                             dlm_error *err);

/* ---- statistics of texts ------------------------------------------------------------------------------ */

/* Texts as token ids, packed. */
typedef struct dlm_texts {
    size_t n;
    const size_t *lengths; /* (n) tokens of each, an end token not among them */
    const int32_t *ids;    /* (T) with T, at most 2^28, the sum of lengths; none is negative */
} dlm_texts;

/* How varied texts are. A figure is not a number (NAN) where no text is long enough for it. */
typedef struct dlm_text_statistics {
    uint64_t texts, tokens;
    double distinct[3]; /* [i]: of all (i+1)-grams of all texts, the share that are different (distinct-n of
                           Li et al. 2016). It falls as texts are added: compare equal numbers of tokens. */
    double repeated[3]; /* [i]: of the (i+2)-grams of a text, the share that stood earlier in the same text;
                           mean over the texts that have any (seq-rep-n of Welleck et al. 2020) */
    double entropy;     /* of the tokens' frequencies, in nats; it too depends on the number of tokens */
} dlm_text_statistics;
DLM_API dlm_status dlm_texts_measure(const dlm_texts *texts, dlm_text_statistics *statistics, dlm_error *err);

/* How numbers of tokens spread: quantile q is the smallest number that at least the share q are not above. */
#define DLM_QUANTILES 7
typedef struct dlm_length_statistics {
    double mean, standard_deviation;   /* with n - 1; not a number (NAN) where n is too small */
    uint64_t quantiles[DLM_QUANTILES]; /* the least, 5, 25, 50, 75 and 95 %, the largest */
} dlm_length_statistics;
/* Of n lengths; DLM_ARGUMENT for none. */
DLM_API dlm_status dlm_lengths_measure(const size_t *lengths, size_t n, dlm_length_statistics *statistics,
                                       dlm_error *err);

/* Looks the texts up in a corpus: spans (T) gets for each token of the texts how many tokens, it and those
 * before it in its text, stand one after the other in one document of data as well. By a suffix automaton of
 * the texts (Blumer et al. 1985), through which every document is read once, on all threads: time grows with
 * the corpus, memory with the texts alone (some hundred bytes a token). Progress (may be NULL) is of the
 * stage "training texts", in documents. */
DLM_API dlm_status dlm_texts_find(const dlm_texts *texts, const dlm_data *data, dlm_progress progress,
                                  void *user, uint32_t *spans, dlm_error *err);

/* How much of the texts is copied from that corpus. */
#define DLM_COPIED_NGRAM 8
typedef struct dlm_copying {
    dlm_length_statistics longest; /* of the longest span of each text */
    size_t text, first, n;         /* the longest of all: n tokens of `text`, from its token `first` on */
    double seen; /* the share of 8-grams (DLM_COPIED_NGRAM) that stand in the corpus; NAN where there is none
                  */
} dlm_copying;
/* From the spans (T) of dlm_texts_find; DLM_ARGUMENT for no texts. */
DLM_API dlm_status dlm_copying_measure(const dlm_texts *texts, const uint32_t *spans, dlm_copying *copying,
                                       dlm_error *err);

/* Texts of a corpus to hold beside others: for each of n lengths one document, none of them twice, drawn by
 * seed among those that have at least so many tokens, and cut to that length. Where none is left that is so
 * long, the longest that is left, whole; where the documents are fewer than n, the shortest lengths get none.
 */
typedef struct dlm_matched {
    size_t n; /* texts: n of the call, or the documents if they are fewer; from the longest to the shortest */
    uint64_t *documents; /* (n) which document each was, from 0 */
    size_t *lengths;     /* (n) */
    int32_t *ids;        /* (T) packed */
} dlm_matched;
DLM_API dlm_status dlm_data_match(const dlm_data *data, const size_t *lengths, size_t n, uint64_t seed,
                                  dlm_matched *matched, dlm_error *err);
DLM_API void dlm_matched_free(dlm_matched *matched);
/* Tokens of document i, from 0, an end token not counted. */
DLM_API size_t dlm_data_length(const dlm_data *data, uint64_t i);

typedef struct dlm_score_options {
    dlm_sample_options
        sampler;           /* its defaults, but temperature 1. What depends on chance, clock or caller is
                              refused: the orders CONFIDENCE_WEIGHTED, RANDOM, ANCESTRAL and
                              FIRST_HITTING, corrector, remasking, max_seconds, on_step; so is temperature
                              0. seed is not read; allow must depend on its arguments alone */
    dlm_progress progress; /* NULL; stage "score", in steps */
    void *user;
} dlm_score_options;
DLM_API dlm_score_options dlm_score_defaults(void);
/* The log-likelihood in nats of each of n packed sequences under a sampler whose order does not depend on the
 * draw: exact, the sum over all sequences of a length is 1 (DUEL, arXiv 2603.01367). lengths (n) from 1 to
 * max_seq_len, ids (T) the sum of them, without masks; log_likelihood (n). fixed (T) or NULL marks positions
 * that are given: the others' likelihood is conditional on them. -INFINITY: the sampler cannot write this
 * ([PAD], [UNK], a banned or truncated token, or one whose probability is 0 in float). forwards (n) or NULL
 * gets the forward passes that the sampler takes to write each sequence. */
DLM_API dlm_status dlm_score(const dlm_model *model, const dlm_score_options *options, size_t n,
                             const size_t *lengths, const int32_t *ids, const uint8_t *fixed,
                             double *log_likelihood, size_t *forwards, dlm_error *err);

/* ---- several processes -------------------------------------------------------------------------------- */

/* The processes that train one model together: its ranks, on one machine or many, as mpirun starts them. A
 * library that was built with MPI=1 joins them; any other knows one rank, itself.
 *
 * Each rank makes the same calls in the same order: those below, dlm_trainer_create, dlm_trainer_step and
 * dlm_trainer_save. A failure of one is a failure of all, with its sentence. Where a rank is gone the others'
 * calls return DLM_NETWORK, now and from then on; such a process should end soon. */
typedef struct dlm_ranks dlm_ranks;
/* Joins the processes that were started with this one. MPI is begun unless the program has done so, and
 * belongs to the whole process: it is ended by close, and cannot be begun again. DLM_UNSUPPORTED where this
 * process is one of several that mpirun started, and the library cannot join them. */
DLM_API dlm_status dlm_ranks_open(dlm_ranks **ranks, dlm_error *err);
/* Waits for the others to close too, unless one is gone. */
DLM_API void dlm_ranks_close(dlm_ranks *ranks);
/* Of NULL: 0, of 1. */
DLM_API size_t dlm_ranks_rank(const dlm_ranks *ranks);
DLM_API size_t dlm_ranks_size(const dlm_ranks *ranks);
/* Threads for this rank, so that ranks which may run on the same processors share them evenly. */
DLM_API size_t dlm_ranks_threads(const dlm_ranks *ranks);
/* *value becomes the largest of all ranks': so all learn of a signal, or wait for each other. */
DLM_API dlm_status dlm_ranks_max(dlm_ranks *ranks, int *value, dlm_error *err);

/* ---- training ----------------------------------------------------------------------------------------- */

typedef enum dlm_optimizer { DLM_ADAMW, DLM_MUON } dlm_optimizer;
typedef enum dlm_loss_weight {
    DLM_WEIGHT_ELBO,
    DLM_WEIGHT_FLAT,
    DLM_WEIGHT_UNIFORM,
    DLM_WEIGHT_INV_SIGMA,
    DLM_WEIGHT_SIGMA
} dlm_loss_weight;

typedef struct dlm_train_options {
    const char *data;      /* DATA folder */
    const char *eval_data; /* NULL: one document in 50 of data is held out */
    const char *run;       /* RUN folder */
    const char *init;      /* NULL, or a model to start from */
    bool resume;           /* go on with RUN: what it computes must be these options; its length (minutes,
                              steps, epochs), the *_every and keep may be others. init is not read then */
    /* model; vocab_size comes from the data */
    size_t hidden_size, depth, num_heads;
    double mlp_ratio;
    dlm_time time;
    dlm_position position;
    dlm_schedule schedule;
    size_t seq_len;
    /* length of the run: the first that is not 0 counts */
    double minutes; /* the decay follows the clock; not repeatable bit for bit */
    size_t steps;
    double epochs;
    /* recipe and optimisation */
    dlm_recipe recipe;
    dlm_loss_weight weight;
    dlm_optimizer optimizer;
    size_t batch; /* sequences per step */
    double lr, min_lr_ratio, weight_decay, clip;
    size_t warmup; /* steps; at most half of those that the run has */
    double ema;    /* decay; the default recipe starts lower: min(ema, (1 + s)/(10 + s)) */
    double tail_share;
    dlm_precision precision;
    uint64_t seed;
    size_t micro_tokens; /* tokens of one pass; a batch of more is summed over several */
    /* every so many steps; 0: never */
    size_t log_every, eval_every, sample_every, save_every;
    size_t eval_documents; /* of the held-out documents an evaluation in the run reads at most this many; 0:
                              all */
    size_t keep;           /* newest checkpoints kept (best and latest always are); 0: all */
    dlm_ranks *ranks;      /* NULL: trains alone; else with these, of which every one has the same options and
                              sees the same DATA and RUN. It must outlive the trainer */
} dlm_train_options;
/* Defaults of a recipe. */
DLM_API dlm_train_options dlm_train_defaults(dlm_recipe recipe);

/* Sizes that have names: channels, blocks and heads. */
typedef enum dlm_preset {
    DLM_PRESET_TINY,  /* 128, 4, 4 */
    DLM_PRESET_SMALL, /* 256, 8, 8: the defaults */
    DLM_PRESET_BASE   /* 768, 12, 12 */
} dlm_preset;
/* Sets hidden_size, depth and num_heads. */
DLM_API dlm_status dlm_train_preset(dlm_preset preset, dlm_train_options *options, dlm_error *err);

/* Whether options can be what a run is trained with, before any data is there: their ranges, and whether they
 * agree with each other. dlm_trainer_create asks the same. */
DLM_API dlm_status dlm_train_check(const dlm_train_options *options, dlm_error *err);

/* What a step did. */
typedef struct dlm_train_report {
    bool stepped; /* a step was taken; else the run was complete already, and loss, lr, grad_norm are 0 */
    size_t step, steps; /* steps done, of how many (0: ends by the clock) */
    double share;       /* of the run that is done, 0 .. 1 */
    double epoch;
    uint64_t tokens; /* trained on so far */
    double seconds;  /* of this and earlier parts of the run */
    double seconds_left;
    double loss, lr, grad_norm, tokens_per_second;
    bool evaluated; /* then these hold */
    double eval_ce, eval_ppl, eval_nelbo;
    bool saved;
    const char *sample;     /* a text when one was drawn at this step, else NULL */
    const char *checkpoint; /* the newest checkpoint's folder, or NULL */
} dlm_train_report;

/* The options that a run goes on with, read from its newest checkpoint, `resume` set: change the length of
 * the run or what it reports, and create the trainer. *paths is memory that the strings in them (but run)
 * point into; freed with dlm_free when the options are no longer used. DLM_NOT_FOUND when the run has no
 * checkpoint yet. */
DLM_API dlm_status dlm_train_recall(const char *run, dlm_train_options *options, char **paths,
                                    dlm_error *err);

/* Text files to train on, of which a run gets a tokenizer and shards before it is trained. */
typedef struct dlm_train_text {
    const char *const *files; /* (n), which are read twice where there is no tokenizer yet */
    size_t n;
    dlm_text_options text;
    const char *tokenizer; /* NULL: a new one is trained; else a folder or tokenizer.json */
    size_t vocab_size;     /* 0: of a new one 1024 to 8192, by the size of the files */
    size_t seq_len;        /* 256: of dlm_prepare_options */
    /* true; false: where RUN has shards already, these may be others than those that were asked for then */
    bool same_format, same_field, same_invalid, same_vocab_size;
    dlm_progress progress; /* NULL; the stages of dlm_tokenizer_train and dlm_prepare */
    void *user;
} dlm_train_text;
DLM_API dlm_train_text dlm_train_text_defaults(void);
typedef struct dlm_train_made {
    bool tokenizer, data; /* were made, not there already */
    size_t vocab_size;
    dlm_data_info info; /* of data, where it was made */
} dlm_train_made;
/* Makes RUN/tokenizer, unless one is named, and RUN/data, as far as they are not there yet, and
 * RUN/text.json, by which a later call knows the text again: by the sizes of its files, so that they may be
 * moved and renamed. Other text than the run was begun with is DLM_MISMATCH. What is made is there whole or
 * not at all, and the next call goes on behind it; a call that fails before there is a tokenizer leaves
 * nothing behind, unless it was cancelled. made may be NULL. */
DLM_API dlm_status dlm_train_prepare(const char *run, const dlm_train_text *text, dlm_train_made *made,
                                     dlm_error *err);

typedef struct dlm_trainer dlm_trainer;
/* Opens data and makes or resumes the run. A folder that holds a run is not written to without resume; a run
 * that was stopped before its first checkpoint, or when nothing but its text was prepared, is resumed by
 * beginning anew. */
DLM_API dlm_status dlm_trainer_create(const dlm_train_options *options, dlm_trainer **trainer,
                                      dlm_error *err);
DLM_API void dlm_trainer_free(dlm_trainer *trainer);
/* One optimiser step, with whatever is due after it (log, evaluation, sample, checkpoint); *finished tells
 * when the run is complete (its last checkpoint is saved then). A loss or gradient that is not finite:
 * DLM_NOT_FINITE, nothing is written, the message names step, batch and last good checkpoint. */
DLM_API dlm_status dlm_trainer_step(dlm_trainer *trainer, dlm_train_report *report, bool *finished,
                                    dlm_error *err);
/* Writes a checkpoint now, unless the newest is of this step. With ranks, rank 0 writes it, as a run of one
 * process would: any number of ranks goes on with it. */
DLM_API dlm_status dlm_trainer_save(dlm_trainer *trainer, dlm_error *err);
/* The model being trained, for description: config and parameter shapes. */
DLM_API const dlm_config *dlm_trainer_config(const dlm_trainer *trainer);
DLM_API dlm_data_info dlm_trainer_data(const dlm_trainer *trainer);

/* ---- speed -------------------------------------------------------------------------------------------- */

typedef enum dlm_work {
    DLM_WORK_FORWARD, /* the logits of every position */
    DLM_WORK_SAMPLE,  /* dlm_sample with its defaults, from nothing but masks */
    DLM_WORK_TRAIN    /* a step by the defaults of the model's recipe, masks as its schedule has them */
} dlm_work;

typedef struct dlm_speed_options {
    dlm_work work;         /* FORWARD */
    size_t sequences;      /* 1: worked on at once */
    size_t length;         /* 80: positions of each */
    double seconds;        /* 1: the work is repeated for so long, and three times at least */
    uint64_t seed;         /* 0: of the ids */
    dlm_progress progress; /* NULL; stage "speed", in repetitions; total is not known */
    void *user;
} dlm_speed_options;
DLM_API dlm_speed_options dlm_speed_defaults(void);

typedef struct dlm_speed {
    double seconds, fastest; /* of one repetition: the median, and the least */
    size_t repetitions;      /* that were timed; before them one to warm up, but for SAMPLE */
    size_t tokens;           /* of one repetition: sequences * length */
    size_t forwards;         /* forward passes of one repetition; a step of training counts as one */
    size_t threads;
} dlm_speed;
/* Measures how fast this machine is with the model, on random ids. The model stays as it is. */
DLM_API dlm_status dlm_speed_measure(const dlm_model *model, const dlm_speed_options *options,
                                     dlm_speed *speed, dlm_error *err);

#ifdef __cplusplus
}
#endif

#endif
