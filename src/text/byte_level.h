/* The byte-level alphabet and the division of text into words, both GPT-2's.
 *
 * In a tokenizer.json every byte is written as a printable character: '!'..'~', U+00A1..U+00AC and
 * U+00AE..U+00FF stand for themselves, the other 68 bytes in their order for U+0100 and what follows. Inside
 * this library tokens are bytes, and only reading and writing that file sees the characters. */
#ifndef DLM_TEXT_BYTE_LEVEL_H
#define DLM_TEXT_BYTE_LEVEL_H

#include <stddef.h>
#include <stdint.h>

/* The character that stands for a byte. */
uint32_t dlm__byte_character(unsigned char byte);
/* The byte that a character stands for, or -1. */
int dlm__character_byte(uint32_t c);

/* Where the word that begins at text[at] ends (at < n; checked UTF-8). The words of a text are what the
 * pattern 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ matches one after the
 * other; they cover all of it. */
size_t dlm__word_end(const char *text, size_t n, size_t at);

#endif
