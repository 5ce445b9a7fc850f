/* Counts what a runtime does to make a container: system calls, instructions, pages touched.
 *
 * usage: counts calls|instructions PROGRAM [ARGUMENT…]
 *
 * PROGRAM is followed from its first instruction, through executions of itself, to its end; each process or thread it makes,
 * up to its first execve. Prints, and exits as PROGRAM did:
 *
 *     calls OWN MADE      or: instructions OWN MADE      PROGRAM's own, and those of what it made
 *     pages OWN                                          page faults of PROGRAM without reading
 *     peak KILOBYTES                                     most of PROGRAM's memory that was there at a time
 *
 * No counter of the processor is needed, so it works in any virtual machine. Calls are the same each time; instructions
 * differ by a thousandth, and take 3 µs each, or 40 in a machine within a machine.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void need(int ok, const char *what) {
  if (!ok) {
    perror(what);
    exit(125);
  }
}

int main(int argc, char **argv) {
  int calls = argc > 2 && strcmp(argv[1], "calls") == 0;
  if (argc < 3 || (!calls && strcmp(argv[1], "instructions") != 0)) {
    fprintf(stderr, "usage: counts calls|instructions PROGRAM [ARGUMENT…]\n");
    return 125;
  }
  int how = calls ? PTRACE_SYSCALL : PTRACE_SINGLESTEP;
  pid_t program = fork();
  need(program >= 0, "fork");
  if (program == 0) {
    need(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0, "PTRACE_TRACEME");
    execv(argv[2], argv + 2);
    perror(argv[2]);
    _exit(125);
  }
  int status;
  need(waitpid(program, &status, 0) == program && WIFSTOPPED(status), "wait for the program");
  long options = PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC |
                 PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD;
  need(ptrace(PTRACE_SETOPTIONS, program, 0, options) == 0, "PTRACE_SETOPTIONS");
  need(ptrace(how, program, 0, 0) == 0, "let the program go on");

  unsigned long own = 0, made = 0;
  struct rusage usage;
  for (;;) {
    pid_t pid = wait4(-1, &status, __WALL, &usage);
    if (pid < 0 && errno == EINTR) continue;
    need(pid > 0, "wait");
    if (!WIFSTOPPED(status)) {
      if (pid != program) continue;
      // A call stops at its begin and at its end.
      if (calls) own = (own + 1) / 2, made = (made + 1) / 2;
      printf("%s %lu %lu\npages %ld\npeak %ld\n", argv[1], own, made, usage.ru_minflt, usage.ru_maxrss);
      return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    int event = status >> 16;
    int signal = WSTOPSIG(status);
    if (event == PTRACE_EVENT_EXEC && pid != program) {
      // The container's program, or a hook: no longer the runtime's work.
      ptrace(PTRACE_DETACH, pid, 0, 0);
      continue;
    }
    int counts = calls ? signal == (SIGTRAP | 0x80) : signal == SIGTRAP && event == 0;
    if (counts && pid == program) own++;
    else if (counts) made++;
    // Stops of the tracer's making are swallowed; all other signals are the program's own.
    int pass = (signal & 0x7f) == SIGTRAP || signal == SIGSTOP ? 0 : signal;
    ptrace(how, pid, 0, pass);
  }
}
