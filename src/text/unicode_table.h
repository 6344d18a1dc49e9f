/* Classes of code points, as the Hugging Face `tokenizers` library sees them.
 *
 * The tables in unicode_table.c are made by tools/unicode_table.py, which asks the library: the Unicode
 * version has to be the library's, and the Unicode libraries of today's distributions are older. */
#ifndef DLM_TEXT_UNICODE_TABLE_H
#define DLM_TEXT_UNICODE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum dlm_class {
    DLM_CLASS_OTHER, /* punctuation, marks, symbols, controls, unassigned */
    DLM_CLASS_LETTER,
    DLM_CLASS_NUMBER,
    DLM_CLASS_SPACE
} dlm_class;

dlm_class dlm__class_of(uint32_t c);

/* Whether the regular expression \w matches it: what counts as part of a word beside an added token with
 * single_word. */
bool dlm__is_word_character(uint32_t c);

#endif
