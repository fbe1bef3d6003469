/* Answers `cpuid` and /proc/cpuinfo as a CPU with fewer instructions would. Preloaded by run.py.
 *
 * run.py has replaced each `cpuid` of ONNX Runtime by a breakpoint. Its signal comes here, where the real
 * answer is given without the bits that CPU_CLASS_HIDDEN names: five hexadecimal numbers, ebx, ecx and edx of
 * leaf 7, then eax and edx of its subleaf 1. CPU_CLASS_CPUINFO is the file that is opened in place of
 * /proc/cpuinfo.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

static unsigned hidden[5];

static void answer(int number, siginfo_t *info, void *context) {
  (void)number;
  (void)info;
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  unsigned leaf = registers[REG_RAX], subleaf = registers[REG_RCX], eax, ebx, ecx, edx;
  __cpuid_count(leaf, subleaf, eax, ebx, ecx, edx);
  if (leaf == 7 && subleaf == 0) {
    ebx &= ~hidden[0], ecx &= ~hidden[1], edx &= ~hidden[2];
  } else if (leaf == 7 && subleaf == 1) {
    eax &= ~hidden[3], edx &= ~hidden[4];
  }
  registers[REG_RAX] = eax, registers[REG_RBX] = ebx, registers[REG_RCX] = ecx, registers[REG_RDX] = edx;
}

__attribute__((constructor)) static void install(void) {
  const char *bits = getenv("CPU_CLASS_HIDDEN");
  for (int at = 0; bits && at < 5; at++) hidden[at] = strtoul(bits, (char **)&bits, 16);
  struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO};
  sigaction(SIGTRAP, &action, NULL);
}

static const char *replaced(const char *path) {
  const char *file = getenv("CPU_CLASS_CPUINFO");
  return file && !strcmp(path, "/proc/cpuinfo") ? file : path;
}

#define OPEN(name)                                                                      \
  int name(const char *path, int flags, ...) {                                          \
    static int (*real)(const char *, int, ...);                                         \
    if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);          \
    va_list arguments;                                                                  \
    va_start(arguments, flags);                                                         \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;         \
    va_end(arguments);                                                                  \
    return real(replaced(path), flags, mode);                                           \
  }
OPEN(open)
OPEN(open64)

#define FOPEN(name)                                                                     \
  FILE *name(const char *path, const char *mode) {                                      \
    static FILE *(*real)(const char *, const char *);                                   \
    if (!real) real = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, #name);  \
    return real(replaced(path), mode);                                                  \
  }
FOPEN(fopen)
FOPEN(fopen64)
