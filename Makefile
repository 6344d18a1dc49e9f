# diffusionlm: `make help` lists the targets; docs/testing.md tells what each test target holds.
#
# Everything made lies under build/. A configuration is a compiler, a BACKEND and a MODE; each has a folder of its own,
# so they can stand side by side. Source files are found by wildcard: a new file needs no change here.

BACKEND ?= onednn
MODE    ?= release
MPI     ?= 0
PREFIX  ?= /usr/local
DESTDIR ?=
SHARED  ?= ../shared
GOLDEN  ?= build/golden
ifeq ($(origin CC),default)
CC := gcc
endif

ifeq ($(filter $(BACKEND),onednn reference),)
$(error BACKEND is onednn or reference, not '$(BACKEND)')
endif
ifeq ($(filter $(MODE),release asan fuzz),)
$(error MODE is release, asan or fuzz, not '$(MODE)')
endif
ifeq ($(filter $(MPI),0 1),)
$(error MPI is 0 or 1, not '$(MPI)')
endif

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

# V=1 shows the commands.
V ?= 0
ifeq ($(V),0)
QUIET := @
say = @echo '  $(1)  $@'
endif

VERSION := $(shell sed -n 's/^.define DLM_VERSION "\(.*\)"/\1/p' include/diffusionlm.h)
SOVERSION := 0
OUT := build/$(notdir $(firstword $(CC)))-$(BACKEND)-$(MODE)$(if $(filter 1,$(MPI)),-mpi)

# ---- flags ----------------------------------------------------------------------------------------------------------

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
# Warnings are errors with the compilers that the project is developed with; what a newer one finds to say must not keep
# anybody from building.
WERROR ?= $(if $(filter 12 14.0.6,$(shell $(CC) -dumpversion 2> /dev/null)),-Werror)
WARNINGS += $(WERROR)
# Contraction to fused multiply-adds is off except where a file asks for it: results must not depend on the compiler.
CFLAGS_ALL := -std=c17 -D_XOPEN_SOURCE=700 -D_DEFAULT_SOURCE -Iinclude -Isrc $(WARNINGS) -g -fopenmp -fPIC \
              -fvisibility=hidden -ffp-contract=off
# libcurl is not among them: it is loaded when something is downloaded (src/format/hub_curl.c).
LDLIBS := -lcrypto -ljansson -lxxhash -lzip -ldeflate -lzstd -lz -lm -ldl
ifeq ($(BACKEND),onednn)
CFLAGS_ALL += -DDLM_BACKEND_ONEDNN
LDLIBS := -ldnnl $(LDLIBS)
endif

# MPI's own compiler driver knows where its header is, and is asked only where that is needed.
MPI_CC = OMPI_CC='$(CC)' MPICH_CC='$(CC)' mpicc
MPI_INCLUDES = $(if $(filter 1,$(MPI)),$(addprefix -isystem ,$(shell mpicc --showme:incdirs)))
ifeq ($(MPI),1)
LDLIBS := -lmpi $(LDLIBS)
endif

MODE_FLAGS_release := -O3
MODE_FLAGS_asan := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
ifeq ($(findstring clang,$(CC)),)
MODE_FLAGS_asan += -Wno-maybe-uninitialized # gcc loses track in instrumented code
endif
MODE_FLAGS_fuzz := $(MODE_FLAGS_asan) -fsanitize=fuzzer-no-link
MODE_FLAGS := $(MODE_FLAGS_$(MODE))
CFLAGS_ALL += $(MODE_FLAGS) $(CFLAGS)
LDFLAGS_ALL := -fopenmp $(filter -fsanitize=% -fno-sanitize%,$(MODE_FLAGS)) $(LDFLAGS)

# ---- sources --------------------------------------------------------------------------------------------------------

LIB_SOURCES := $(wildcard src/*/*.c)
ifeq ($(BACKEND),reference)
LIB_SOURCES := $(filter-out %_onednn.c,$(LIB_SOURCES))
endif
# Of the wires between processes there is one in a build.
LIB_SOURCES := $(filter-out src/ranks/wire_$(if $(filter 1,$(MPI)),alone,mpi).c,$(LIB_SOURCES))
# src/compute/isa_*.c are compiled once for each instruction set, with DLM_ISA as its name; the best that the machine
# has is picked at run time.
ISA_SOURCES := $(filter src/compute/isa_%.c,$(LIB_SOURCES))
LIB_SOURCES := $(filter-out $(ISA_SOURCES),$(LIB_SOURCES))
ISAS := baseline
ifneq ($(filter x86_64%,$(or $(shell $(CC) -dumpmachine 2> /dev/null),$(shell uname -m))),)
ISAS += avx2 avx512 avx512_bf16
endif
ISA_FLAGS_baseline :=
ISA_FLAGS_avx2 := -mavx2 -mfma -mf16c -ffp-contract=fast
ISA_FLAGS_avx512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mprefer-vector-width=512 -ffp-contract=fast
# And products of bfloat16 and of bytes.
ISA_FLAGS_avx512_bf16 := $(ISA_FLAGS_avx512) -mavx512bf16 -mavx512vnni

CLI_SOURCES := $(wildcard cli/*.c)
UNIT_SOURCES := $(wildcard tests/unit/*.c)
FUZZ_SOURCES := $(wildcard tests/fuzz/*.c)
SCRIPTS := $(wildcard tests/scripts/*.sh)

LIB_OBJECTS := $(LIB_SOURCES:%.c=$(OUT)/%.o) $(foreach isa,$(ISAS),$(ISA_SOURCES:%.c=$(OUT)/%.$(isa).o))
CLI_OBJECTS := $(CLI_SOURCES:%.c=$(OUT)/%.o)
UNIT_OBJECTS := $(UNIT_SOURCES:%.c=$(OUT)/%.o)
FUZZ_OBJECTS := $(FUZZ_SOURCES:%.c=$(OUT)/%.o)
HARNESS := $(OUT)/tests/check.o $(OUT)/tests/command.o
REPLAY := $(OUT)/tests/replay.o
BENCH_OBJECTS := $(patsubst %.c,$(OUT)/%.o,$(wildcard bench/*.c))
OBJECTS := $(LIB_OBJECTS) $(CLI_OBJECTS) $(UNIT_OBJECTS) $(FUZZ_OBJECTS) $(BENCH_OBJECTS) $(HARNESS) $(REPLAY)

STATIC := $(OUT)/libdiffusionlm.a
SONAME := libdiffusionlm.so.$(SOVERSION)
DYNAMIC := $(OUT)/libdiffusionlm.so.$(VERSION)
PROGRAM := $(if $(CLI_SOURCES),$(OUT)/diffusionlm)
UNIT_TESTS := $(UNIT_OBJECTS:%.o=%)
REPLAYS := $(FUZZ_OBJECTS:%.o=%-replay)
FUZZERS := $(FUZZ_OBJECTS:%.o=%-fuzz)
BENCHES := $(BENCH_OBJECTS:%.o=%)

# ---- library and command --------------------------------------------------------------------------------------------

.PHONY: all
all: $(STATIC) $(DYNAMIC) $(PROGRAM)
ifneq ($(PROGRAM),)
	@ln -sfn $(PROGRAM:build/%=%) build/diffusionlm
endif

# What a program outside the tree is linked with: the library, the command beside it, then flags.
.PHONY: link-flags
link-flags:
	@echo '$(STATIC) $(PROGRAM) $(LDFLAGS_ALL) $(LDLIBS)'

# What the objects were compiled with; changes only when that does, and then all of them are made again.
FLAGS_FILE := $(OUT)/flags
FLAGS_TEXT := $(CC) $(CFLAGS_ALL) $(foreach isa,$(ISAS),$(ISA_FLAGS_$(isa)))
.PHONY: force
$(FLAGS_FILE): force
	@mkdir -p $(@D)
	@echo '$(FLAGS_TEXT)' | cmp -s - $@ || echo '$(FLAGS_TEXT)' > $@

$(OBJECTS): $(FLAGS_FILE) | deps

$(OUT)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC )
	$(QUIET)$(CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

$(OUT)/src/ranks/wire_mpi.o: src/ranks/wire_mpi.c
	@mkdir -p $(@D)
	$(call say,CC )
	$(QUIET)$(MPI_CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

$(OUT)/tests/%.o: CFLAGS_ALL += -Itests -I. -DDLM_TEST_GOLDEN='"$(abspath build/golden)"'

define isa_rule
$(OUT)/%.$(1).o: %.c
	@mkdir -p $$(@D)
	$$(call say,CC )
	$$(QUIET)$$(CC) $$(CFLAGS_ALL) $$(ISA_FLAGS_$(1)) -DDLM_ISA=$(1) -MMD -MP -c $$< -o $$@
endef
$(foreach isa,$(ISAS),$(eval $(call isa_rule,$(isa))))

$(STATIC): $(LIB_OBJECTS)
	@rm -f $@
	$(call say,AR )
	$(QUIET)$(AR) rcs $@ $^

$(DYNAMIC): $(LIB_OBJECTS)
	$(call say,LD )
	$(QUIET)$(CC) -shared -Wl,-soname,$(SONAME) $(LDFLAGS_ALL) $^ $(LDLIBS) -o $@
	@ln -sfn $(@F) $(OUT)/$(SONAME)
	@ln -sfn $(SONAME) $(OUT)/libdiffusionlm.so

$(OUT)/diffusionlm: $(CLI_OBJECTS) $(STATIC)
	$(call say,LD )
	$(QUIET)$(CC) $(LDFLAGS_ALL) $^ $(LDLIBS) -o $@

$(UNIT_TESTS): %: %.o $(HARNESS) $(STATIC)
	$(call say,LD )
	$(QUIET)$(CC) $(LDFLAGS_ALL) $(filter %.o,$^) $(STATIC) $(LDLIBS) -o $@

# Of the command's own parts only these know the insides.
CLI_PARTS := $(filter-out $(OUT)/cli/main.o,$(CLI_OBJECTS))
$(addprefix $(OUT)/tests/,unit/test_cli unit/test_cli_options $(addprefix fuzz/,options-replay options-fuzz ids-replay ids-fuzz)): $(CLI_PARTS)

# Calls that this test sees: it has a function of its own before each of them.
WATCHED := fsync rename syscall dlm__encoder_encode dlm__word_end dlm__matmul dlm__loss
$(OUT)/tests/unit/test_watched: LDFLAGS_ALL += $(WATCHED:%=-Xlinker --wrap=%)
# This one says that a file system has no links and no locks.
$(OUT)/tests/unit/test_hub: LDFLAGS_ALL += -Xlinker --wrap=symlink -Xlinker --wrap=flock
# And this one writes holes where there are zeros, and gives memory back early.
$(OUT)/tests/unit/test_zip64: LDFLAGS_ALL += -Xlinker --wrap=fwrite -Xlinker --wrap=libdeflate_crc32

$(REPLAYS): %-replay: %.o $(REPLAY) $(STATIC)
	$(call say,LD )
	$(QUIET)$(CC) $(LDFLAGS_ALL) $(filter %.o,$^) $(STATIC) $(LDLIBS) -o $@

$(FUZZERS): %-fuzz: %.o $(STATIC)
	$(call say,LD )
	$(QUIET)$(CC) $(LDFLAGS_ALL) -fsanitize=fuzzer $(filter %.o,$^) $(STATIC) $(LDLIBS) -o $@

-include $(OBJECTS:.o=.d)

# The command, with its calls of these led through bench/counted.c.
COUNTED := passes_loss loss matmul int8_matmul embed embed_backward time_features modulated_norm modulated_norm_backward \
    gated_residual gated_residual_backward gelu gelu_backward silu silu_backward column_sum to_type from_bf16 gather_rows \
    scatter_add_rows rotate rotate_rows attention attention_rows attention_backward attention_rows_backward softmax cross_entropy \
    sum_of_squares adamw
$(OUT)/bench/counted: $(CLI_OBJECTS)
$(OUT)/bench/counted: LDFLAGS_ALL += $(COUNTED:%=-Xlinker --wrap=dlm__%)

$(BENCHES): %: %.o $(STATIC)
	$(call say,LD )
	$(QUIET)$(CC) $(LDFLAGS_ALL) $(filter %.o,$^) $(STATIC) $(LDLIBS) -o $@

# ---- what is needed from outside --------------------------------------------------------------------------------------

# Installs missing headers and libraries (or says which); does nothing when all are there.
.PHONY: deps
deps:
	@CC='$(CC)' BACKEND='$(BACKEND)' MPI='$(MPI)' tools/deps.sh

# ---- tests ------------------------------------------------------------------------------------------------------------

# The fixtures of the repository, unpacked.
GOLDEN_STAMP := build/golden/.unpacked
$(GOLDEN_STAMP): $(wildcard tests/golden/*) | deps
	@rm -rf build/golden && mkdir -p build/golden
	@for archive in tests/golden/*.tar.zst; do zstd -dcq $$archive | tar -xf - -C build/golden || exit 1; done
	@cp tests/golden/*.json build/golden/
	@touch $@

# Scripts look at the built files and the sources, which one configuration is enough for.
TEST_SCRIPTS := $(if $(filter release,$(MODE)),$(SCRIPTS))
TEST_ENVIRONMENT = GOLDEN='$(abspath $(GOLDEN))' SHARED='$(abspath $(SHARED))' PROGRAM='$(abspath $(PROGRAM))' \
    OUT='$(abspath $(OUT))' CC='$(CC)' MAKE='$(MAKE)' BACKEND='$(BACKEND)' MODE='$(MODE)' MPI='$(MPI)' LDLIBS='$(LDLIBS)'

# UNITS=forward,int8: only these of tests/unit.
UNITS ?=
comma := ,
TESTS := $(if $(UNITS),$(patsubst %,$(OUT)/tests/unit/test_%,$(subst $(comma), ,$(UNITS))),$(UNIT_TESTS) $(REPLAYS))

.PHONY: test asan
test: all $(TESTS) $(GOLDEN_STAMP)
	@[ -d '$(GOLDEN)' ] || { echo "GOLDEN is '$(GOLDEN)', which is no folder" >&2; exit 1; }
	@$(TEST_ENVIRONMENT) tests/run.sh $(TESTS) $(TEST_SCRIPTS)

asan:
	@$(MAKE) --no-print-directory MODE=asan test

# Training by several processes, in a build with MPI.
.PHONY: test-mpi test-mpi-run
test-mpi:
	@$(MAKE) --no-print-directory MPI=1 test-mpi-run
test-mpi-run: $(PROGRAM) $(OUT)/tests/unit/test_ranks $(GOLDEN_STAMP)
	@$(TEST_ENVIRONMENT) tests/run.sh tests/mpi.sh

# The program held against PyTorch, the Hugging Face libraries and TensorBoard, which go to build/venv.
.PHONY: test-oracles
test-oracles: all $(OUT)/bench/measure $(OUT)/bench/counted $(GOLDEN_STAMP)
	@$(TEST_ENVIRONMENT) tests/oracle/run.sh

# The Python package: built, installed in build/venv, and tested there; its form is checked too (ruff, mypy).
.PHONY: test-python
test-python: all $(GOLDEN_STAMP)
	@$(TEST_ENVIRONMENT) python/tests/run.sh

# Both sides in turn, here and PyTorch, tokenizers and ONNX Runtime, which go to build/bench-venv: docs/performance.md. ROWS=a,b
# for some rows alone, BENCH_OPTIONS for what bench/side_by_side takes besides (--resume goes on with a run that was cut).
ROWS ?=
BENCH_OPTIONS ?=
.PHONY: benches bench bench-quick
benches: $(BENCHES)
bench bench-quick: all $(BENCHES) $(GOLDEN_STAMP)
	@tools/venv.sh build/bench-venv bench/requirements.txt
	@build/bench-venv/bin/python bench/side_by_side --mode $(if $(filter bench-quick,$@),quick,full) --rows '$(ROWS)' \
	    --program '$(PROGRAM)' --measure '$(OUT)/bench/measure' --counted '$(OUT)/bench/counted' \
	    --golden '$(GOLDEN)' $(BENCH_OPTIONS)

# Fuzzing with new inputs, for FUZZ_SECONDS each; `make test` only replays the corpus.
FUZZ_SECONDS ?= 60
.PHONY: fuzz fuzz-run
fuzz:
	@$(MAKE) --no-print-directory CC=clang MODE=fuzz fuzz-run
fuzz-run: $(FUZZERS)
	@set -e; for fuzzer in $(FUZZERS); do \
	    name=$$(basename $$fuzzer -fuzz); \
	    mkdir -p build/fuzz/$$name tests/fuzz/$$name; \
	    echo "fuzzing $$name for $(FUZZ_SECONDS) s"; \
	    $$fuzzer -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=build/fuzz/$$name- build/fuzz/$$name tests/fuzz/$$name; \
	done

# ---- form ---------------------------------------------------------------------------------------------------------------

FORMATTED = $(wildcard include/*.h src/*/*.[ch] cli/*.[ch] bench/*.c tests/*.[ch] tests/*/*.[ch])
.PHONY: tidy format format-check
tidy: | deps
	@command -v clang-tidy > /dev/null || { echo 'clang-tidy is not installed'; exit 1; }
	@printf '%s\n' $(LIB_SOURCES) $(ISA_SOURCES) $(CLI_SOURCES) | xargs -P 2 -I{} sh -c \
	    'clang-tidy --quiet {} -- $(filter-out -Werror,$(CFLAGS_ALL)) $(MPI_INCLUDES) -DDLM_ISA=baseline 2> /dev/null || { echo {}; exit 1; }'
format:
	clang-format -i $(FORMATTED)
format-check:
	@clang-format --dry-run --Werror $(FORMATTED)

# ---- install ------------------------------------------------------------------------------------------------------------

LIBDIR := $(PREFIX)/lib
PRIVATE_LIBS := $(LDLIBS) -fopenmp
MANUAL := $(OUT)/diffusionlm.1
COMPLETIONS := $(addprefix $(OUT)/completion.,bash zsh fish)

$(MANUAL): $(PROGRAM)
	$(PROGRAM) help --man > $@
$(COMPLETIONS): $(OUT)/completion.%: $(PROGRAM)
	$(PROGRAM) help --completion $* > $@

.PHONY: install uninstall
install: all $(if $(PROGRAM),$(MANUAL) $(COMPLETIONS))
	@case '$(PREFIX)' in /*) ;; *) echo "PREFIX is '$(PREFIX)', which is no absolute path" >&2; exit 1 ;; esac
	install -d '$(DESTDIR)$(LIBDIR)/pkgconfig' '$(DESTDIR)$(PREFIX)/include'
	install -m 644 include/diffusionlm.h '$(DESTDIR)$(PREFIX)/include/'
	install -m 644 $(STATIC) '$(DESTDIR)$(LIBDIR)/'
	install -m 755 $(DYNAMIC) '$(DESTDIR)$(LIBDIR)/'
	ln -sfn $(notdir $(DYNAMIC)) '$(DESTDIR)$(LIBDIR)/$(SONAME)'
	ln -sfn $(SONAME) '$(DESTDIR)$(LIBDIR)/libdiffusionlm.so'
	sed -e 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|; s|@PRIVATE@|$(PRIVATE_LIBS)|' tools/diffusionlm.pc.in \
	    > '$(DESTDIR)$(LIBDIR)/pkgconfig/diffusionlm.pc'
ifneq ($(PROGRAM),)
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/share/man/man1'
	install -m 755 $(PROGRAM) '$(DESTDIR)$(PREFIX)/bin/'
	install -m 644 $(MANUAL) '$(DESTDIR)$(PREFIX)/share/man/man1/'
	install -D -m 644 $(OUT)/completion.bash '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/diffusionlm'
	install -D -m 644 $(OUT)/completion.zsh '$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_diffusionlm'
	install -D -m 644 $(OUT)/completion.fish '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/diffusionlm.fish'
endif

INSTALLED := bin/diffusionlm include/diffusionlm.h lib/libdiffusionlm.a lib/libdiffusionlm.so lib/$(SONAME) \
             lib/$(notdir $(DYNAMIC)) lib/pkgconfig/diffusionlm.pc share/man/man1/diffusionlm.1 \
             share/bash-completion/completions/diffusionlm share/zsh/site-functions/_diffusionlm \
             share/fish/vendor_completions.d/diffusionlm.fish
uninstall:
	rm -f $(patsubst %,'$(DESTDIR)$(PREFIX)/%',$(INSTALLED))

# ---- the rest -------------------------------------------------------------------------------------------------------------

# From nothing to a story on the terminal: see tools/story.sh.
.PHONY: story
story: all
	@PROGRAM='$(PROGRAM)' tools/story.sh

.PHONY: clean
clean:
	rm -rf build

.PHONY: help
help:
	@echo 'make               static and shared library, command (build/diffusionlm)'
	@echo 'make story         train a small model for some minutes and let it write a story'
	@echo 'make test          every test that needs neither Python nor network; GOLDEN=DIR: on other fixtures; UNITS=a,b: these'
	@echo 'make test-mpi      training by several processes, in a build with MPI'
	@echo 'make test-oracles  the program held against PyTorch and Hugging Face (installs them to build/venv)'
	@echo 'make test-python   the Python package, built and installed in build/venv'
	@echo 'make asan          make test under the address and undefined-behaviour sanitizers'
	@echo 'make bench         the program beside PyTorch, tokenizers and ONNX Runtime, some hours; ROWS=encode,forward: only these'
	@echo '                   BENCH_OPTIONS=--resume: go on with a run that was cut'
	@echo 'make bench-quick   what of it fits into three minutes'
	@echo 'make benches       the programs that measure primitives alone'
	@echo 'make fuzz          fuzz each parser for FUZZ_SECONDS (needs clang)'
	@echo 'make tidy format format-check   clang-tidy, clang-format'
	@echo 'make install uninstall          PREFIX=$(PREFIX), DESTDIR'
	@echo 'make deps          install what is missing'
	@echo 'make clean'
	@echo 'Variables: BACKEND=onednn|reference, MODE=release|asan, MPI=0|1, CC=gcc|clang, CFLAGS, LDFLAGS'
