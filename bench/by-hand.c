/* What a container costs by hand, for bench/runtime-run.sh: no configuration is read, no error is explained, nothing is
 * recorded. Whatever a runtime takes beyond it is the runtime's own.
 *
 * usage: by-hand bare|whole ROOTFS CGROUP      CGROUP: below each v1 hierarchy, "/x/y"
 *
 * bare: new mount, PID, network, IPC, UTS and cgroup namespaces, pivot_root, /bin/true.
 * whole: and what `runc spec` asks for: control groups with device rules, /proc, /dev with its nodes and links, devpts, shm,
 * mqueue, /sys, masked and read-only paths, host name, limits, no capabilities but three, no new privileges.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static void need(int ok, const char *what) {
  if (!ok) {
    perror(what);
    _exit(125);
  }
}

static const char *const hierarchies[] = {"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"};
enum { HIERARCHIES = sizeof hierarchies / sizeof *hierarchies };

static void put(const char *folder, const char *file, const char *text) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, file);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  need(fd >= 0 && write(fd, text, strlen(text)) >= 0, path);
  close(fd);
}

static void copy(const char *from, const char *to, const char *file) {
  char path[512], text[256];
  snprintf(path, sizeof path, "%s/%s", from, file);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  need(len >= 0, path);
  close(fd);
  text[len] = 0;
  put(to, file, text);
}

/* The parent is the caller's own group. */
static void make_groups(const char *group, char folders[][512]) {
  static const char *const devices[] = {"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm",
                                        "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm"};
  for (int i = 0; i < HIERARCHIES; i++) {
    char parent[256];
    snprintf(parent, sizeof parent, "/sys/fs/cgroup/%s%s", hierarchies[i], group);
    snprintf(folders[i], 512, "%s-%d", parent, getpid());
    *strrchr(parent, '/') = 0;
    if (access(parent, F_OK) != 0) {
      folders[i][0] = 0;
      continue;
    }
    need(mkdir(folders[i], 0755) == 0, folders[i]);
    if (strcmp(hierarchies[i], "cpuset") == 0) {
      copy(parent, folders[i], "cpuset.cpus");
      copy(parent, folders[i], "cpuset.mems");
    }
    if (strcmp(hierarchies[i], "devices") == 0) {
      put(folders[i], "devices.deny", "a");
      for (size_t d = 0; d < sizeof devices / sizeof *devices; d++) put(folders[i], "devices.allow", devices[d]);
    }
  }
}

static void put_on(const char *type, const char *at, unsigned long flags, const char *data) {
  mkdir(at, 0755);
  need(mount(type, at, type, flags, data) == 0, at);
}

static void fill(void) {
  static const struct { const char *name; int minor; } nodes[] = {
      {"null", 3}, {"zero", 5}, {"full", 7}, {"random", 8}, {"urandom", 9}};
  static const char *const links[][2] = {{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"},
                                         {"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"},
                                         {"pts/ptmx", "dev/ptmx"}};
  static const char *const masked[] = {"proc/kcore", "proc/keys", "proc/timer_list"};
  static const char *const hidden[] = {"proc/acpi", "proc/scsi", "sys/firmware"};
  static const char *const fixed[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
  const unsigned long plain = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  put_on("proc", "proc", 0, NULL);
  put_on("tmpfs", "dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
  put_on("devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
  put_on("tmpfs", "dev/shm", plain, "mode=1777,size=65536k");
  put_on("mqueue", "dev/mqueue", plain, NULL);
  put_on("sysfs", "sys", plain | MS_RDONLY, NULL);
  put_on("tmpfs", "sys/fs/cgroup", plain, "mode=755");
  umask(0);
  for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
    char path[32];
    snprintf(path, sizeof path, "dev/%s", nodes[i].name);
    need(mknod(path, S_IFCHR | 0666, makedev(1, nodes[i].minor)) == 0, path);
  }
  need(mknod("dev/tty", S_IFCHR | 0666, makedev(5, 0)) == 0, "dev/tty");
  for (size_t i = 0; i < sizeof links / sizeof *links; i++) need(symlink(links[i][0], links[i][1]) == 0, links[i][1]);
  for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) mount("dev/null", masked[i], NULL, MS_BIND, NULL);
  for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++) mount("tmpfs", hidden[i], "tmpfs", MS_RDONLY, NULL);
  for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
    if (mount(fixed[i], fixed[i], NULL, MS_BIND | MS_REC, NULL) == 0)
      need(mount(NULL, fixed[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | plain, NULL) == 0, fixed[i]);
  }
}

static void confine(void) {
  const unsigned kept = 1 << CAP_AUDIT_WRITE | 1 << CAP_KILL | 1 << CAP_NET_BIND_SERVICE;
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct sets[2] = {{.effective = kept, .permitted = kept}};
  struct rlimit files = {1024, 1024};
  need(sethostname("by-hand", 7) == 0, "host name");
  need(setrlimit(RLIMIT_NOFILE, &files) == 0, "limit");
  for (int cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
    if (cap > 31 || !(kept >> cap & 1)) prctl(PR_CAPBSET_DROP, cap);
  need(syscall(SYS_capset, &header, sets) == 0, "capabilities");
  need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no new privileges");
}

int main(int argc, char **argv) {
  char folders[HIERARCHIES][512] = {{0}};
  int go[2];
  need(argc == 4, "usage: by-hand bare|whole ROOTFS CGROUP");
  const int whole = strcmp(argv[1], "whole") == 0;
  need(pipe2(go, O_CLOEXEC) == 0, "pipe");
  if (whole) make_groups(argv[3], folders);
  struct clone_args arguments = {
      .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP,
      .exit_signal = SIGCHLD};
  pid_t pid = syscall(SYS_clone3, &arguments, sizeof arguments);
  need(pid >= 0, "clone3");
  if (pid == 0) {
    char byte;
    close(go[1]);
    need(read(go[0], &byte, 1) == 1, "go");
    need(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "private");
    need(mount(argv[2], argv[2], NULL, MS_BIND | MS_REC, NULL) == 0, argv[2]);
    need(chdir(argv[2]) == 0, argv[2]);
    if (whole) fill();
    need(syscall(SYS_pivot_root, ".", ".") == 0, "pivot_root");
    need(umount2(".", MNT_DETACH) == 0, "unmount");
    if (whole) {
      need(mount(NULL, "/", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) == 0, "read-only");
      confine();
    }
    execl("/bin/true", "true", NULL);
    need(0, "/bin/true");
  }
  char text[16];
  snprintf(text, sizeof text, "%d", pid);
  for (int i = 0; i < HIERARCHIES; i++)
    if (folders[i][0]) put(folders[i], "cgroup.procs", text);
  need(write(go[1], "", 1) == 1, "go");
  int status;
  need(waitpid(pid, &status, 0) == pid, "wait");
  for (int i = 0; i < HIERARCHIES; i++)
    if (folders[i][0]) need(rmdir(folders[i]) == 0, folders[i]);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 124;
}
