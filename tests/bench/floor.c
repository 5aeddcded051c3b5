/* What the kernel asks for a container at least: clone, overlay mount, pivot_root, /proc, /dev, /sys, exec, wait.
 *
 *     floor OVERLAY_DIRECTORY OPTIONS ROOT PROGRAM
 *
 * For each line on standard input one container, and its nanoseconds on standard output. OPTIONS are relative to the
 * directory, as dockerd's are; ROOT is an empty directory to mount on.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/sched.h>

static void check(int failed, const char *what)
{
	if (failed) {
		perror(what);
		_exit(125);
	}
}

static const char *const nodes[] = {"null", "zero", "full", "random", "urandom", "tty"};
static const int numbers[][2] = {{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}};
static const char *const read_only[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"};
static const char *const masked[] = {"/proc/keys", "/proc/timer_list"};
static const unsigned long plain = MS_NOSUID | MS_NODEV | MS_NOEXEC;

static void populate(void)
{
	check(mount("proc", "/proc", "proc", plain, NULL), "proc");
	check(mount("tmpfs", "/dev", "tmpfs", MS_NOSUID, "mode=755,size=65536k"), "dev");
	check(chdir("/dev"), "chdir");
	for (int i = 0; i < 6; i++)
		check(mknod(nodes[i], S_IFCHR | 0666, makedev(numbers[i][0], numbers[i][1])), nodes[i]);
	check(mkdir("pts", 0755) || mkdir("mqueue", 0755) || mkdir("shm", 0755), "mkdir");
	check(mount("devpts", "pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"), "devpts");
	check(mount("mqueue", "mqueue", "mqueue", plain, NULL), "mqueue");
	check(mount("shm", "shm", "tmpfs", plain, "mode=1777,size=67108864"), "shm");
	check(mount("sysfs", "/sys", "sysfs", plain | MS_RDONLY, NULL), "sys");
	for (int i = 0; i < 4; i++) {
		check(mount(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL), read_only[i]);
		check(mount(NULL, read_only[i], NULL, plain | MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), read_only[i]);
	}
	for (int i = 0; i < 2; i++)
		check(mount("/dev/null", masked[i], NULL, MS_BIND, NULL), masked[i]);
	check(mount("tmpfs", "/sys/firmware", "tmpfs", MS_RDONLY, NULL), "/sys/firmware");
	check(chdir("/"), "chdir");
}

static void become(char **argv)
{
	char *words[] = {argv[4], "true", NULL};
	char *environment[] = {NULL};

	check(mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
	check(chdir(argv[1]), "chdir");
	check(mount("overlay", argv[3], "overlay", 0, argv[2]), "overlay");
	check(chdir(argv[3]), "chdir");
	check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	check(umount2(".", MNT_DETACH), "umount");
	check(chdir("/"), "chdir");
	populate();
	execve(argv[4], words, environment);
	check(1, "exec");
}

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	char line[16];

	check(argc != 5, "arguments");
	while (fgets(line, sizeof line, stdin)) {
		long long begun = now();
		struct clone_args how = {
			.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP,
			.exit_signal = SIGCHLD,
		};
		pid_t child = syscall(SYS_clone3, &how, sizeof how);
		int status;

		check(child < 0, "clone3");
		if (child == 0)
			become(argv);
		check(waitpid(child, &status, 0) != child, "waitpid");
		check(status != 0, "the container");
		printf("%lld\n", now() - begun);
		fflush(stdout);
	}
	return 0;
}
