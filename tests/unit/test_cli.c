/* The command as scripts see it: help, exit statuses, standard input and output, and the tokenizer commands.
 */
#include "check.h"
#include "command.h"

#include "cli/options.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char stories[] = "Once upon a time there was a little cat. The cat liked to play.\n"
                              "<|endoftext|>\n"
                              "One day a little dog saw the cat. They played all day.\n"
                              "<|endoftext|>\n";

/* A new file in a temporary folder. */
static const char *write_file(const char *name, const char *text, size_t bytes) {
    const char *path = path_in(temporary_dir(), name);
    FILE *file = fopen(path, "wb");
    if (!CHECK(file != NULL && fwrite(text, 1, bytes, file) == bytes)) return path;
    (void)fclose(file);
    return path;
}

/* The folder of a tokenizer trained on the stories above. */
static const char *tokenizer(void) {
    static const char *dir;
    if (dir != NULL) return dir;
    dir = path_in(temporary_dir(), "tokenizer");
    (void)CHECK_DONE(RUN_ON(stories, "tokenizer", "train", "-", "-o", dir, "--vocab-size", "300", "--quiet"));
    return dir;
}

/* ---- help and usage ----------------------------------------------------------------------------------- */

TEST(version_and_overview) {
    outcome got = RUN("--version");
    CHECK_DONE(got);
    CHECK_STR_EQ(got.out, "diffusionlm " DLM_VERSION "\n");
    got = RUN("--help");
    CHECK_DONE(got);
    for (size_t i = 0; commands[i] != NULL; i++) CHECK(strstr(got.out, commands[i]->name) != NULL);
    CHECK_STR_EQ(RUN("help").out, got.out);
    CHECK_INT_EQ(run_command("", 0, (const char *const[]){NULL}).status, 2);
    CHECK(strstr(RUN("tokenizer", "--help").out, "tokenizer decode") != NULL);
    CHECK_STR_EQ(RUN("help", "tokenizer", "encode").out, RUN("tokenizer", "encode", "--help").out);
}

/* Help, manual and completions name every option of every command, and nothing that is not there. */
TEST(every_form_of_help_is_whole) {
    outcome manual = RUN("help", "--man"), bash = RUN("help", "--completion", "bash"),
            zsh = RUN("help", "--completion=zsh"), fish = RUN("help", "--completion", "fish");
    CHECK_DONE(manual);
    CHECK_DONE(bash);
    CHECK_DONE(zsh);
    CHECK_DONE(fish);
    for (size_t i = 0; commands[i] != NULL; i++) {
        const char *words[4] = {0};
        char name[64], dashed[80];
        (void)snprintf(name, sizeof name, "%s", commands[i]->name);
        char *space = strchr(name, ' ');
        if (space != NULL) *space = 0;
        words[0] = name;
        words[1] = space == NULL ? "--help" : space + 1;
        words[2] = space == NULL ? NULL : "--help";
        outcome help = run_command("", 0, words);
        CHECK_DONE(help);
        size_t lines = 0, options = 0;
        for (const char *at = help.out; (at = strstr(at, "\n  ")) != NULL; at++)
            lines += strncmp(at + 3, "    --", 6) == 0 || (at[3] == '-' && at[4] != '-');
        for (const option *row = common_options; row->name != NULL; row++) options++;
        for (const option *row = commands[i]->options; row->name != NULL; row++) {
            options++;
            check_context("%s --%s", commands[i]->name, row->name);
            (void)snprintf(dashed, sizeof dashed, "--%s", row->name);
            CHECK(strstr(help.out, dashed) != NULL);
            CHECK(strstr(bash.out, dashed) != NULL);
            CHECK(strstr(zsh.out, dashed) != NULL);
            CHECK(strstr(fish.out, row->name) != NULL);
            CHECK(strstr(manual.out, row->help) != NULL || strpbrk(row->help, "-\\") != NULL);
        }
        check_context("%s", commands[i]->name);
        CHECK_INT_EQ(lines, options);
        check_context("%s", "");
    }
}

TEST(completion_of_bash_completes) {
    const char *script = path_in(temporary_dir(), "complete");
    outcome made = RUN("help", "--completion", "bash");
    FILE *file = fopen(script, "w");
    REQUIRE(file != NULL);
    (void)fputs(made.out, file);
    (void)fputs(
        "compopt() { :; }\n"
        "ask() { COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _diffusionlm; echo \"${COMPREPLY[@]}\"; }\n"
        "ask diffusionlm tok\n"
        "ask diffusionlm tokenizer en\n"
        "ask diffusionlm tokenizer train --vocab\n"
        "ask diffusionlm tokenizer train --format json\n"
        "ask diffusionlm help --completion = f\n",
        file);
    (void)fclose(file);
    char line[300];
    (void)snprintf(line, sizeof line, "bash %s", script);
    FILE *shell = popen(line, "r");
    REQUIRE(shell != NULL);
    static const char *const want[] = {"tokenizer\n", "encode\n", "--vocab-size\n", "jsonl\n", "fish\n"};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        if (!CHECK(fgets(line, sizeof line, shell) != NULL)) break;
        CHECK_STR_EQ(line, want[i]);
    }
    CHECK_INT_EQ(pclose(shell), 0);
}

TEST(mistakes_exit_2) {
    CHECK_FAILS(RUN("tokenizer", "encoed"), 2, "did you mean tokenizer encode?");
    CHECK_FAILS(RUN("tokenizer", "train", "x"), 2,
                "-o, --output DIR is missing: the folder for tokenizer.json and tokenizer_config.json");
    CHECK_FAILS(RUN("tokenizer", "train", "-o", "x"), 2, "FILE... is missing");
    CHECK_FAILS(RUN("tokenizer", "train", "-o", "x", "y", "--vocab-size", "12x"), 2,
                "--vocab-size: 12x is not a whole number from 260 to 1000000");
    CHECK_FAILS(RUN("tokenizer", "info", "-t", "x", "--jsn"), 2, "did you mean --json?");
    CHECK_FAILS(RUN("help", "nothing"), 2, "there is no command nothing");
    CHECK_FAILS(RUN("help", "--completion", "csh"), 2, "--completion: csh is not bash, zsh or fish");
    CHECK_FAILS(RUN("--verbose"), 2, "there is no command --verbose");
}

TEST(failures_exit_1) {
    CHECK_FAILS(RUN("tokenizer", "info", "-t", "/nonexistent/tokenizer.json"), 1,
                "/nonexistent/tokenizer.json");
    CHECK_FAILS(RUN("tokenizer", "encode", "-t", tokenizer(), "/nonexistent/text"), 1, "/nonexistent/text");
    const char *dir = path_in(temporary_dir(), "tokenizer");
    CHECK_FAILS(RUN("tokenizer", "train", "/nonexistent/text", "-o", dir), 1, "/nonexistent/text");
    CHECK(access(dir, F_OK) != 0);
}

/* Writing that fails is a failure; a reader that has left is one too, but needs no words. */
TEST(output_that_cannot_be_written) {
    char line[500];
    const char *said = path_in(temporary_dir(), "said");
    (void)snprintf(line, sizeof line, "%s --version > /dev/full 2> %s", program_path(), said);
    CHECK_INT_EQ(system(line), 1 << 8);
    CHECK_STR_EQ(read_text(said, NULL), "diffusionlm: standard output: No space left on device\n");
    /* Of longer output the C library may have forgotten the reason by the end. */
    (void)snprintf(line, sizeof line, "%s help --man > /dev/full 2> %s", program_path(), said);
    CHECK_INT_EQ(system(line), 1 << 8);
    CHECK(strncmp(read_text(said, NULL), "diffusionlm: standard output: ", 30) == 0);
    (void)snprintf(line, sizeof line, "(%s help --man; echo $? >&2) 2> %s | head -c 1 > /dev/null",
                   program_path(), said);
    CHECK_INT_EQ(system(line), 0);
    const char *left = read_text(said, NULL); /* 0 when all of it fitted the pipe before the reader left */
    CHECK(left != NULL && (strcmp(left, "1\n") == 0 || strcmp(left, "0\n") == 0));
}

/* ---- bench -------------------------------------------------------------------------------------------- */

static double number_in(const json_t *object, const char *name) {
    return json_number_value(json_object_get(object, name));
}

/* Rates are the counts by the medians. */
static void check_rates(const json_t *one) {
    const double seconds = number_in(one, "seconds"), tokens = number_in(one, "tokens");
    CHECK(seconds > 0 && seconds >= number_in(one, "fastest"));
    CHECK_CLOSE(number_in(one, "tokens_per_s") * seconds / tokens, 1.0, 1e-9);
    CHECK(number_in(one, "repetitions") >= 3);
}

TEST(bench_measures) {
    outcome got = RUN("bench", "--preset", "tiny", "--length", "5", "--seconds", "0", "--precision", "f32",
                      "--json", "--threads", "2");
    CHECK_DONE(got);
    json_t *all = json_loads(got.out, 0, NULL);
    CHECK_STR_EQ(json_string_value(json_object_get(all, "precision")), "f32");
    CHECK_STR_EQ(json_string_value(json_object_get(all, "preset")), "tiny");
    CHECK_INT_EQ(number_in(all, "threads"), 2);
    CHECK_INT_EQ(number_in(all, "parameters"), 2932480);
    const json_t *forward = json_object_get(all, "forward"), *generate = json_object_get(all, "generate"),
                 *train = json_object_get(all, "train");
    static const size_t n[] = {1, 4, 16};
    CHECK_INT_EQ(json_array_size(forward), 3);
    CHECK_INT_EQ(json_array_size(generate), 2);
    for (size_t i = 0; i < 5; i++) {
        const json_t *one = i < 3 ? json_array_get(forward, i) : json_array_get(generate, i - 3);
        CHECK_INT_EQ(number_in(one, "n"), n[i % 3]);
        CHECK_INT_EQ(number_in(one, "tokens"), 5 * n[i % 3]);
        check_rates(one);
        if (i >= 3) CHECK_CLOSE(number_in(one, "steps_per_s") * number_in(one, "seconds"), 5.0, 1e-9);
    }
    CHECK_INT_EQ(number_in(train, "tokens"), 32 * 256);
    check_rates(train);
    json_decref(all);
    CHECK_FAILS(RUN("bench", "--length", "300"), 1, "--length 300: the model takes at most 256 tokens");
    CHECK_FAILS(RUN("bench", "-m", "/nowhere"), 1, "/nowhere");
}

/* ---- tokenizer ---------------------------------------------------------------------------------------- */

TEST(train_says_what_it_made) {
    const char *dir = path_in(temporary_dir(), "said");
    outcome got =
        RUN_ON(stories, "tokenizer", "train", "-", "-o", dir, "--vocab-size=280", "--min-frequency", "2");
    CHECK_DONE(got);
    CHECK_STR_EQ(got.out, "");
    CHECK(strstr(got.err, "280 tokens, 20 of them merges") != NULL);
    CHECK(access(path_in(dir, "tokenizer_config.json"), R_OK) == 0);
    got = RUN_ON(stories, "tokenizer", "train", "-", "-o", dir, "--vocab-size=270", "--json", "--quiet",
                 "--overwrite");
    CHECK_DONE(got);
    CHECK_STR_EQ(got.err, "");
    json_t *value = json_loads(got.out, 0, NULL);
    CHECK_INT_EQ(json_integer_value(json_object_get(value, "vocab_size")), 270);
    json_decref(value);
    CHECK_STR_EQ(RUN("tokenizer", "info", "-t", dir, "--json").out, got.out);
    CHECK(strstr(RUN("tokenizer", "info", "--tokenizer", dir).out, "vocabulary    270 tokens") != NULL);
}

TEST(text_to_ids_and_back) {
    static const char text[] = " a little cat [MASK] and\n\ta dog\xE2\x82\xAC ";
    outcome ids = RUN_ON(text, "tokenizer", "encode", "-t", tokenizer());
    CHECK_DONE(ids);
    CHECK(strchr(ids.out, '\n') == ids.out + ids.bytes - 1);
    CHECK(strstr(ids.out, " 2 ") != NULL);
    outcome back = RUN_ON(ids.out, "tokenizer", "decode", "-t", tokenizer(), "--keep-special");
    CHECK_DONE(back);
    CHECK_STR_EQ(back.out, text);
    back = RUN_ON(ids.out, "tokenizer", "decode", "-t", tokenizer(), "-");
    CHECK_STR_EQ(back.out, " a little cat  and\n\ta dog\xE2\x82\xAC ");
    const char *one = write_file("one", "cat", 3), *two = write_file("two", "dog", 3);
    outcome both = RUN("tokenizer", "encode", "-t", tokenizer(), one, two);
    CHECK_DONE(both);
    CHECK(strchr(both.out, '\n') + 1 < both.out + both.bytes);
    CHECK_STR_EQ(RUN_ON(both.out, "tokenizer", "decode", "-t", tokenizer()).out, " cat dog");
}

TEST(forms_of_text) {
    outcome got = RUN_ON("cat\n\ndog\n", "tokenizer", "encode", "-t", tokenizer(), "--format", "lines");
    CHECK_DONE(got);
    outcome same = RUN_ON("{\"s\": \"cat\"}\n{\"s\": \"dog\"}\n", "tokenizer", "encode", "-t", tokenizer(),
                          "--format=jsonl", "--field=s");
    CHECK_DONE(same);
    CHECK_STR_EQ(same.out, got.out);
    same = RUN_ON("\ncat\n<|endoftext|>\ndog", "tokenizer", "encode", "-t", tokenizer(), "--format",
                  "separated");
    CHECK_STR_EQ(same.out, got.out);
    CHECK_FAILS(RUN_ON("ab\xFF", "tokenizer", "encode", "-t", tokenizer()), 1, "2");
    got = RUN_ON("ab\xFF", "tokenizer", "encode", "-t", tokenizer(), "--invalid", "replace");
    CHECK_DONE(got);
    CHECK_STR_EQ(RUN_ON(got.out, "tokenizer", "decode", "-t", tokenizer()).out, " ab\xEF\xBF\xBD");
}

TEST(json_lines) {
    static const char lines[] = "\"cat\"\n\n{\"text\": \"a\\u0000b \\ud83d\\ude00\", \"other\": 1}\n";
    outcome got = RUN_ON(lines, "tokenizer", "encode", "--json", "-t", tokenizer());
    CHECK_DONE(got);
    outcome back = RUN_ON(got.out, "tokenizer", "decode", "--json", "-t", tokenizer());
    CHECK_DONE(back);
    CHECK_STR_EQ(back.out, "{\"text\":\" cat\"}\n{\"text\":\" a\\u0000b \xF0\x9F\x98\x80\"}\n");
    CHECK_FAILS(RUN_ON("\"a\"\n{\"txt\": 1}\n", "tokenizer", "encode", "--json", "-t", tokenizer()), 1,
                "-, value 2: neither \"text\" nor {\"text\": ...}");
    CHECK_FAILS(RUN_ON("{\"ids\": [1, 2.5]}\n", "tokenizer", "decode", "--json", "-t", tokenizer()), 1,
                "-, value 1: ids[1] is not a token id");
    CHECK_FAILS(RUN_ON("{\"ids\": [1, 99999]}\n", "tokenizer", "decode", "--json", "-t", tokenizer()), 1,
                "99999");
    CHECK_FAILS(RUN_ON("[1\n", "tokenizer", "decode", "--json", "-t", tokenizer()), 1,
                "-, value 1 is not JSON");
    CHECK_FAILS(RUN_ON("1 2 x3\n", "tokenizer", "decode", "-t", tokenizer()), 1, "-: x3 is not a token id");
    CHECK_FAILS(RUN_ON("1 -2\n", "tokenizer", "decode", "-t", tokenizer()), 1, "-: -2 is not a token id");
    CHECK_FAILS(RUN_ON("99999999999999999999999\n", "tokenizer", "decode", "-t", tokenizer()), 1,
                "is not a token id");
}
