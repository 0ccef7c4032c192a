# make            builds build/interposed
# make demo       installs what is missing, builds, and shows the tutorial run against the server
# make run        the same, but leaves the server running
# make test       installs what the tests need and runs all of them; the last line counts them
# make check      the tests again under the address, undefined-behaviour and thread sanitizers, and
#                 the fuzzers, FUZZ_SECONDS each
# make bench      Interpose beside its peers, tables and plots in bench/; ONLY=decode,prefill a part
# make gemm       the products alone beside OpenBLAS, one table between the machine's limits
# make gpu-check  on a machine with a GPU: the CUDA backend beside the reference and beside the CPU, the
#                 server with it as far as there are libraries, the toolkit's sanitizers; EMULATE=1 tries it out
# make gpu-bench  on a machine with a GPU: its times beside its limits, cuBLAS and torch, in bench/gpu.md
# make gpu-carry  packs what a machine needs for these two that has a GPU and nothing else, into build/carry
# make install    into PREFIX (/usr/local)
#
# Variables: CC, CXX, PREFIX, SANITIZE (address,undefined or thread), FUZZ_SECONDS, HOST, PORT, MODEL,
# ROUNDS and ONLY of the benchmark; REPORTS, where those of a GPU go (build); CUDA=1 builds the CUDA backend too, with nvcc from PATH or
# CUDA_HOME.

ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif
CLANG ?= $(firstword $(foreach c,clang clang-19 clang-16 clang-14,$(shell command -v $(c))) clang)
PREFIX ?= /usr/local
PYTHON ?= python3
FUZZ_SECONDS ?= 10
HOST ?= 127.0.0.1
PORT ?= 8000
MODEL ?= models/demo
ROUNDS ?= 15
ONLY ?=
REPORTS ?= build

# A build with a sanitizer lives in a folder of its own, so that the two never mix.
comma := ,
BUILD := build$(if $(SANITIZE),/$(firstword $(subst $(comma), ,$(SANITIZE))))

# -ffp-contract=off: a multiply and an add are fused only where a kernel says so, or the bits of a
# result would depend on the compiler.
WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
        -Wvla -Wwrite-strings -Wundef -Wold-style-definition
CFLAGS_ALL := -std=c11 -D_GNU_SOURCE -O2 -g -ffp-contract=off -fno-math-errno -fPIE $(WARN) $(CFLAGS)
ifdef SANITIZE
# Sanitizers leave the compiler unsure about variables that the plain build proves to be set. Their
# reports need lines; where each variable is at each instruction takes gcc twice as long in all.
CFLAGS_ALL += -O1 -g1 -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer \
              -Wno-maybe-uninitialized
else
CFLAGS_ALL += -fstack-protector-strong -fstack-clash-protection -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
LINK_SAFE := -Wl,-z,relro,-z,now
endif
# The same for C++.
CXXFLAGS_ALL := $(filter-out -std=c11 -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition, \
                $(CFLAGS_ALL)) -std=c++20 $(CXXFLAGS)
LIBS := -lmicrohttpd -ljansson -lmsgpackc -lm -lpthread
NVCC_HERE := $(firstword $(wildcard $(CUDA_HOME:%=%/bin/nvcc)) $(shell command -v nvcc))
ifdef CUDA
NVCC := $(NVCC_HERE)
ifeq ($(NVCC),)
$(error CUDA=1 needs nvcc: put it on PATH, or say where the toolkit is with CUDA_HOME=...)
endif
# As for the host: nothing is fused but what is written, and nothing is approximate.
NVCC_FLAGS := -std=c++20 -O3 -fmad=false -Werror all-warnings -Xcompiler -fPIE \
              -gencode arch=compute_80,code=sm_80 \
              -gencode 'arch=compute_90,code=[sm_90,compute_90]' $(NVCCFLAGS)
NVCC_TOP := $(shell $(NVCC) --dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^.. TOP=//p')
CUDA_LIBS := -L$(NVCC_TOP)/lib64 -lcudart_static -ldl -lrt -lstdc++
endif
LDFLAGS_ALL := -pie $(LINK_SAFE) $(LDFLAGS)

LIBRARY := $(wildcard protocol/*.c kernels/*.c kernels/cpu/*.c)
SERVER := $(filter-out server/device_$(if $(CUDA),no_)cuda.c,$(wildcard server/*.c))
# What the thread sanitizer is for: the programs with threads.
UNIT := $(if $(findstring thread,$(SANITIZE)),$(addprefix tests/unit/test_,queue.c backend.c batch.c), \
        $(wildcard tests/unit/test_*.c))
# The emulator's tests, and those of the CUDA backend that runs on it: C++, without the thread
# sanitizer, whose place the emulator takes.
CUDA_SOURCES := $(wildcard kernels/cuda/*.cu)
EMULATOR := $(wildcard kernels/emulate/*.cpp)
EMULATED := $(if $(findstring thread,$(SANITIZE)),,$(wildcard tests/unit/test_*.cu))
# Of the tools that run under sanitizers one is enough: the others are asked for numbers.
TOOLS := $(if $(SANITIZE),tests/schedules_tool.c,$(wildcard tests/*_tool.c))
FUZZERS := $(wildcard tests/fuzz/fuzz_*.c)
BENCHES := $(wildcard bench/*.c)

object = $(1:%.c=$(BUILD)/obj/%.o)
CUDA_OBJECTS := $(CUDA_SOURCES:%.cu=$(BUILD)/obj/%.o)
LIBRARY_OBJECTS := $(call object,$(LIBRARY)) $(if $(CUDA),$(CUDA_OBJECTS))
LIBS += $(CUDA_LIBS)
SERVER_OBJECTS := $(call object,$(SERVER))
# What the tests may call of the server: everything but its main.
TEST_OBJECTS := $(LIBRARY_OBJECTS) $(filter-out $(BUILD)/obj/server/main.o,$(SERVER_OBJECTS)) \
                $(call object,$(wildcard tests/reference.c tests/fault.c))

EMULATOR_OBJECTS := $(EMULATOR:%.cpp=$(BUILD)/obj/%.o)
# A backend and its reference stand on these alone.
BACKEND_TEST_OBJECTS := $(call object,protocol/base.c protocol/tensor.c protocol/ops.c tests/reference.c)
# So do whole passes, of a model that is made and not read: what they need of the library is without
# JSON and msgpack.
PLAIN_OBJECTS := $(call object,$(filter-out kernels/config.c kernels/safetensors.c kernels/shards.c \
                 protocol/decode%.c protocol/encode%.c protocol/bpe.c protocol/ending.c protocol/spec.c,$(filter %.c,$(LIBRARY))) \
                 tests/made_model.c)
EMULATED_OBJECTS := $(CUDA_SOURCES:%.cu=$(BUILD)/obj/emulated/%.o) $(EMULATOR_OBJECTS)
EMULATED_PROGRAMS := $(EMULATED:tests/unit/%.cu=$(BUILD)/tests/%) \
                     $(if $(EMULATED),$(BUILD)/tests/test_backend_emulated $(BUILD)/tests/test_passes_emulated $(BUILD)/tests/test_fast_emulated $(BUILD)/tests/test_engine_emulated)
# The whole engine on the emulated device: the server, and random schedules.
EMULATED_ENGINE := $(if $(EMULATED),$(BUILD)/emulated/interposed $(BUILD)/emulated/tests/schedules_tool)
EMULATED_ENGINE_OBJECTS := $(call object,$(LIBRARY) server/device_cuda.c $(filter-out \
                           server/main.c server/device_%cuda.c,$(wildcard server/*.c))) $(EMULATED_OBJECTS)
UNIT_PROGRAMS := $(UNIT:tests/unit/%.c=$(BUILD)/tests/%) $(EMULATED_PROGRAMS)
TOOL_PROGRAMS := $(TOOLS:tests/%.c=$(BUILD)/tests/%)
FUZZ_PROGRAMS := $(FUZZERS:tests/fuzz/%.c=build/fuzz/%)
BENCH_PROGRAMS := $(BENCHES:bench/%.c=$(BUILD)/bench/%)

.PHONY: all programs tests fuzzers demo run test address thread arm check bench gemm gpu-check gpu-bench gpu-carry \
        clean install packages-build
.DELETE_ON_ERROR:
# Objects are kept, also those of programs that are made in one step.
.SECONDARY:

all: $(BUILD)/interposed

# Says how interposed was linked last, with CUDA or without: the other choice links it anew. Made
# here and not by a rule, since .SECONDARY lets a missing file be.
LINKED := $(BUILD)/obj/linked_$(if $(CUDA),cuda,no_cuda)
ifeq ($(wildcard $(LINKED)),)
$(shell mkdir -p $(BUILD)/obj && rm -f $(BUILD)/obj/linked_* && touch $(LINKED))
endif

$(BUILD)/interposed: $(LIBRARY_OBJECTS) $(SERVER_OBJECTS) $(LINKED)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $(filter %.o,$^) $(LIBS)

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

# cmocka and getopt-like tables of the tests take literals as char *.
$(BUILD)/obj/tests/%.o: CFLAGS_ALL += -Wno-write-strings

ifndef SANITIZE
# The loops of the graph's ops are vectorised by the compiler.
$(BUILD)/obj/kernels/cpu/%.o: CFLAGS_ALL += -O3
endif

$(BUILD)/tests/test_backend: $(BUILD)/obj/tests/tested_cpu.o
$(BUILD)/tests/test_%: $(BUILD)/obj/tests/unit/test_%.o $(TEST_OBJECTS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $^ -lcmocka $(LIBS)

# The backend and its passes without cmocka and the server's libraries: for machines that have none.
BARE := $(BUILD)/bare
$(BARE)/obj/%.o: tests/unit/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -Itests/bare -MMD -MP -c -o $@ $<

# 64-bit ARM on any machine: a cross compiler's programs, which qemu runs. Where passes compares two
# backends with each other and with what is known, both are the CPU's.
ARM_PROGRAMS := build/arm/bare/test_backend build/arm/bare/passes
$(BARE)/test_backend: $(BACKEND_TEST_OBJECTS) $(BARE)/obj/test_backend.o $(BUILD)/obj/tests/tested_arm.o \
                      $(call object,$(wildcard kernels/cpu/*.c))
$(BARE)/passes: $(PLAIN_OBJECTS) $(BARE)/obj/passes.o
$(BARE)/passes: LDFLAGS_ALL += -Wl,--defsym=backend_cuda=backend_cpu
$(BARE)/test_backend $(BARE)/passes:
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $^ -lm -lpthread

$(BUILD)/obj/%.o: %.cpp
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS_ALL) -MMD -MP -c -o $@ $<

# For the emulator, which answers the calls that the thread sanitizer's instrumentation makes before each
# load and store of a kernel. Under the address sanitizer the backend's kernels are checked by that
# instead, so that each kind of check is made in one build; the emulator's own tests stay traced.
EMULATE_FLAGS := $(filter-out -fsanitize=%,$(CXXFLAGS_ALL)) -MMD -MP -x c++ -c
$(BUILD)/obj/tests/unit/%.o: tests/unit/%.cu
	@mkdir -p $(@D)
	$(CXX) $(EMULATE_FLAGS) -fsanitize=thread $(if $(SANITIZE),-fsanitize=undefined) -o $@ $<

$(BUILD)/obj/emulated/%.o: %.cu
	@mkdir -p $(@D)
	$(CXX) $(EMULATE_FLAGS) -fsanitize=$(or $(SANITIZE),thread) -o $@ $<

$(EMULATED:tests/unit/%.cu=$(BUILD)/tests/%): $(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o $(EMULATOR_OBJECTS)
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $^ -lcmocka

$(BUILD)/tests/test_backend_emulated: $(BACKEND_TEST_OBJECTS) $(BUILD)/obj/tests/unit/test_backend.o \
                                      $(BUILD)/obj/tests/tested_cuda.o $(EMULATED_OBJECTS)
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $^ -lcmocka -lm

$(BUILD)/tests/test_passes_emulated $(BUILD)/tests/test_fast_emulated: \
$(BUILD)/tests/test_%_emulated: $(PLAIN_OBJECTS) $(BUILD)/obj/tests/unit/%.o $(EMULATED_OBJECTS)
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $^ -lcmocka -lm -lpthread

$(EMULATED_ENGINE): $(EMULATED_ENGINE_OBJECTS)
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

$(BUILD)/tests/test_engine_emulated: $(BUILD)/obj/tests/unit/engine.o $(EMULATED_ENGINE_OBJECTS)
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $^ -lcmocka $(LIBS)

$(BUILD)/emulated/interposed: $(BUILD)/obj/server/main.o
$(BUILD)/emulated/tests/schedules_tool: $(call object,tests/schedules_tool.c tests/reference.c)

$(CUDA_OBJECTS): $(BUILD)/obj/%.o: %.cu
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) -MMD -MP -c -o $@ $<

# What runs on a machine with a GPU, nvcc and a host compiler: without cmocka. EMULATE=1 tries it out
# where there is none. All of it can be carried to a machine without a compiler: with C++'s library
# within, the server's libraries looked for in lib/ beside the program.
GPU := $(BUILD)/gpu$(if $(EMULATE),_emulated)
GPU_OBJECTS := $(if $(EMULATE),$(EMULATED_OBJECTS),$(CUDA_OBJECTS))
GPU_CHECKS := $(addprefix $(GPU)/,test_backend passes fast)
GPU_ENGINE := $(addprefix $(GPU)/,schedules_tool interposed)
GPU_LINK = $(CXX) $(CXXFLAGS_ALL) $(LDFLAGS_ALL) -static-libstdc++ -static-libgcc -o $@ $^ -lm -lpthread -ldl \
           $(filter-out -lstdc++,$(CUDA_LIBS))

$(GPU)/test_backend: $(BACKEND_TEST_OBJECTS) $(BARE)/obj/test_backend.o $(BUILD)/obj/tests/tested_cuda.o $(GPU_OBJECTS)
$(GPU)/passes $(GPU)/fast: $(GPU)/%: $(PLAIN_OBJECTS) $(BARE)/obj/%.o $(GPU_OBJECTS)
$(GPU_CHECKS):
	@mkdir -p $(@D)
	$(GPU_LINK)

$(BUILD)/obj/bench/gpu.o: bench/gpu.cu
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) -MMD -MP -c -o $@ $<

$(GPU)/bench: $(PLAIN_OBJECTS) $(if $(EMULATE),$(BUILD)/obj/emulated/bench/gpu.o,$(BUILD)/obj/bench/gpu.o) $(GPU_OBJECTS)
	@mkdir -p $(@D)
	$(GPU_LINK)

$(GPU)/schedules_tool: $(call object,tests/schedules_tool.c tests/reference.c)
$(GPU)/interposed: $(call object,server/main.c)
$(GPU_ENGINE): $(call object,server/device_cuda.c $(filter-out server/main.c server/device_%cuda.c,$(wildcard server/*.c)) \
                 $(filter %.c,$(LIBRARY))) $(GPU_OBJECTS)
	@mkdir -p $(@D)
	$(GPU_LINK) $(filter -lmicrohttpd -ljansson -lmsgpackc,$(LIBS)) -Wl,--disable-new-dtags,-rpath,'$$ORIGIN/lib'

$(BUILD)/tests/%_tool: $(BUILD)/obj/tests/%_tool.o $(TEST_OBJECTS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

# What a test loads into a program with LD_PRELOAD. A sanitizer allocates for itself.
WATCH := $(if $(SANITIZE),,$(BUILD)/tests/alloc_watch.so)

$(BUILD)/tests/%.so: tests/%.c
	@mkdir -p $(@D)
	$(CC) $(filter-out -fPIE,$(CFLAGS_ALL)) -fPIC -shared -o $@ $<

$(BUILD)/bench/%: $(BUILD)/obj/bench/%.o $(LIBRARY_OBJECTS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $^ $(LIBS) -ldl

tests: $(BUILD)/interposed $(UNIT_PROGRAMS) $(TOOL_PROGRAMS) $(WATCH) $(EMULATED_ENGINE)
# The GPU's benchmark runs where a GPU is; that it compiles is seen everywhere.
programs: tests $(BENCH_PROGRAMS) $(BUILD)/obj/emulated/bench/gpu.o

# libFuzzer comes with clang; the objects are its own.
FUZZ_FLAGS := -std=c11 -D_GNU_SOURCE -O1 -g -ffp-contract=off -fno-math-errno $(WARN) \
              -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
# No fuzzer computes anything: what they need of kernels/ are the files of a model.
FUZZ_OBJECTS := $(patsubst %.c,build/fuzz/obj/%.o,$(wildcard protocol/*.c) \
                  $(addprefix kernels/,config.c safetensors.c shards.c))

build/fuzz/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CLANG) $(FUZZ_FLAGS) -MMD -MP -c -o $@ $<

build/fuzz/%: build/fuzz/obj/tests/fuzz/%.o $(FUZZ_OBJECTS)
	$(CLANG) $(FUZZ_FLAGS) -fsanitize=fuzzer -o $@ $^ -ljansson -lmsgpackc -lm -lpthread

fuzzers: $(FUZZ_PROGRAMS)

# What a machine needs is listed and installed by docker/packages.sh alone; the Python packages are
# in requirements files beside what needs them, in a virtual environment in the tree.
packages-build:
	@sh docker/packages.sh build

.venv/client.done: clients/python/requirements.txt
	@echo "A Python virtual environment in .venv, with what the client needs ..."
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.venv/tests.done: tests/requirements.txt .venv/client.done
	@echo "Into .venv: what the tests compare with (torch, transformers, tokenizers) ..."
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Where the machine has no nvcc. PyPI has none for some systems: there its tests are skipped, by name.
.venv/nvcc.done: tests/nvcc.txt .venv/client.done
	@echo "Into .venv: nvcc, which compiles the CUDA backend ..."
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $< || \
	    echo "It cannot be installed: tests/test_cuda.py is skipped."
	@touch $@

# llama.cpp is compiled; where that fails the benchmark runs without it and says why.
.venv/bench.done: bench/requirements.txt bench/llama.txt .venv/tests.done
	@echo "Into .venv: the peers of the benchmark ..."
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@echo "Into .venv: llama.cpp, which two cores compile in four minutes ..."
	@CMAKE_ARGS=-DLLAVA_BUILD=OFF .venv/bin/python -m pip install --quiet \
	    --disable-pip-version-check --no-deps -r bench/llama.txt >.venv/llama.log 2>&1 || \
	    echo "It does not build, see .venv/llama.log: its rows are left out."
	@touch $@

demo: packages-build .venv/client.done
	@$(MAKE) --no-print-directory --silent -j all
	@sh clients/demo.sh $(MODEL)

run: packages-build
	@$(MAKE) --no-print-directory --silent -j all
	$(BUILD)/interposed --model $(MODEL) --host $(HOST) --port $(PORT)

test:
	@sh docker/packages.sh build tests
	@$(MAKE) --no-print-directory --silent -j2 .venv/tests.done $(if $(NVCC_HERE),,.venv/nvcc.done) programs
	@.venv/bin/python tests/run.py test

# The builds with sanitizers, by their names in build/.
address:
	@$(MAKE) tests SANITIZE=address,undefined
thread:
	@$(MAKE) tests SANITIZE=thread
arm:
	@$(MAKE) $(ARM_PROGRAMS) BUILD=build/arm CC=aarch64-linux-gnu-gcc

check:
	@sh docker/packages.sh build tests arm
	@$(MAKE) --no-print-directory --silent -j2 .venv/tests.done address thread arm fuzzers
	@FUZZ_SECONDS=$(FUZZ_SECONDS) .venv/bin/python tests/run.py check

bench:
	@sh docker/packages.sh build
	@$(MAKE) --no-print-directory --silent .venv/bench.done
	@$(MAKE) --no-print-directory --silent -j2 all $(BENCH_PROGRAMS)
	@.venv/bin/python bench/run.py --rounds $(ROUNDS) --only "$(ONLY)"

# OpenBLAS is the one inside numpy. Its threads must not spin behind a call, or they would keep a core
# from whoever is timed next.
gemm: .venv/client.done
	@$(MAKE) --no-print-directory --silent $(BUILD)/bench/gemm $(BUILD)/bench/limits
	@$(BUILD)/bench/limits 2
	@OPENBLAS_THREAD_TIMEOUT=4 $(BUILD)/bench/gemm \
	    $$(.venv/bin/python -c "import numpy, pathlib; p = pathlib.Path(numpy.__file__).parent.parent; print(next(p.glob('numpy.libs/*openblas*')))")
	@$(BUILD)/bench/limits 2

# What was carried here is run as it came.
GPU_MAKE := $(MAKE) --no-print-directory --silent -j$(shell nproc) $(if $(EMULATE),,CUDA=1)

gpu-check:
	@sh tests/gpu_carry.sh carried $(GPU) || { [ $$? = 1 ] && $(GPU_MAKE) $(GPU_CHECKS) && \
	    if sh tests/gpu_carry.sh libraries $(CC); then $(GPU_MAKE) $(GPU_ENGINE); fi; }
	@EMULATE=$(EMULATE) sh tests/gpu_check.sh $(GPU) $(REPORTS)

# Where there is no GPU, a data sheet's limits stand beside empty columns.
gpu-bench:
	@sh tests/gpu_carry.sh carried $(GPU) || { [ $$? = 1 ] && \
	    $(if $(EMULATE)$(NVCC_HERE),$(GPU_MAKE) $(GPU)/bench,true); }
	@EMULATE=$(EMULATE) $(or $(wildcard .venv/bin/python),$(PYTHON)) bench/gpu.py $(GPU)/bench $(REPORTS)

gpu-carry: .venv/tests.done
	@$(GPU_MAKE) $(GPU_CHECKS) $(GPU_ENGINE) $(GPU)/bench
	@sh tests/gpu_carry.sh pack $(GPU)

install: all
	install -D -m 755 $(BUILD)/interposed $(DESTDIR)$(PREFIX)/bin/interposed
	install -d $(DESTDIR)$(PREFIX)/share/interpose/models/demo
	install -m 644 models/demo/* $(DESTDIR)$(PREFIX)/share/interpose/models/demo

# The virtual environment stays: it is large, and nothing of ours is in it.
clean:
	rm -rf build clients/python/build

-include $(shell find build -name '*.d' 2>/dev/null)
