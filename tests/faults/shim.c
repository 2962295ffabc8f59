/*
 * Faults from outside: a library that is loaded before libc (LD_PRELOAD) into one daemon, unchanged.
 *
 * It counts the calls that change something on disk below the watched paths (the *fault points*), and at the one that the
 * control file names it ends the daemon with SIGKILL: before the call, after it, or, for a write, after half of it. It
 * also lets calls fail with a chosen errno, and steps the wall clock. The control file is shared memory: a test changes
 * its mind while the daemon runs. Without CLOSERANKS_FAULT_CONTROL every call goes straight through.
 *
 * What it can not see: stores to mapped memory, io_uring, and libc's own calls (fopen). The program uses none of these
 * for what must last: the trace of a run shows it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { BEFORE = 0, AFTER = 1, TORN = 2 };
enum { READ = 1, WRITE = 2, SYNC = 4, NAME = 8, OPEN = 16 };
enum { WATCHED = 4, PATH_SIZE = 512 };

/* The control file, byte for byte; shim.py packs the same. */
struct control {
    uint64_t points;      /* fault points so far */
    uint64_t kill_at;     /* the point to die at; 0: none */
    uint64_t killed_at;   /* the point that it died at */
    uint64_t failed;      /* calls that were let fail */
    int64_t clock_ns;     /* added to the wall clock */
    uint32_t kill_how;    /* BEFORE, AFTER, TORN */
    uint32_t fail_calls;  /* which kinds of calls fail */
    int32_t fail_errno;
    uint32_t fail_every;  /* of the calls that match, each k-th fails */
    uint64_t matched;     /* calls that matched */
    int32_t daemon;       /* whom to kill */
    int32_t trace;        /* write each point to the trace file */
    char watch[WATCHED][PATH_SIZE]; /* points lie below these */
    char fail_path[PATH_SIZE];      /* calls fail on paths that contain this */
};

static struct control *control;
static int trace_fd = -1;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOSERANKS_FAULT_CONTROL");
    if (!path) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) abort();
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED) abort();
    syscall(SYS_close, fd);
    char trace[PATH_SIZE];
    snprintf(trace, sizeof trace, "%s.trace", path);
    /* Out of the way of descriptors that the program counts on. */
    fd = (int)syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    trace_fd = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 200);
    syscall(SYS_close, fd);
}

/* The path of a descriptor, or of a name below one. */
static void path_of(int fd, const char *name, char *out) {
    out[0] = 0;
    if (name && name[0] == '/') {
        snprintf(out, PATH_SIZE, "%s", name);
        return;
    }
    char link[64];
    if (fd == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long size = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_SIZE - 1);
    if (size < 0) size = 0;
    out[size] = 0;
    if (name && size + strlen(name) + 2 < PATH_SIZE) {
        out[size] = '/';
        strcpy(out + size + 1, name);
    }
}

static int watched(const char *path) {
    for (int i = 0; i < WATCHED && control->watch[i][0]; i++)
        if (!strncmp(path, control->watch[i], strlen(control->watch[i]))) return 1;
    return 0;
}

static void die(uint64_t point) {
    control->killed_at = point;
    syscall(SYS_kill, control->daemon ? control->daemon : getpid(), SIGKILL);
    for (;;) pause();
}

/* The number of this fault point; 0 where the call is none. It does not return from a kill before the call. */
static uint64_t point(const char *call, const char *path, const char *from) {
    if (!watched(path)) return 0;
    uint64_t number = __atomic_add_fetch(&control->points, 1, __ATOMIC_SEQ_CST);
    if (control->trace) {
        char line[2 * PATH_SIZE + 64];
        int size = snprintf(line, sizeof line, "%lu %s %s\t%s\n", (unsigned long)number, call, path, from);
        syscall(SYS_write, trace_fd, line, size < (int)sizeof line ? size : (int)sizeof line - 1);
    }
    if (number == control->kill_at && control->kill_how == BEFORE) die(number);
    return number;
}

static void after(uint64_t number) {
    if (number && number == control->kill_at) die(number);
}

static int failing(uint32_t kind, const char *path) {
    if (!(control->fail_calls & kind) || !strstr(path, control->fail_path)) return 0;
    uint64_t number = __atomic_add_fetch(&control->matched, 1, __ATOMIC_SEQ_CST);
    if (control->fail_every && number % control->fail_every) return 0;
    __atomic_add_fetch(&control->failed, 1, __ATOMIC_SEQ_CST);
    errno = control->fail_errno;
    return 1;
}

#define RUN(kind, fd, name, call, label)                 \
    do {                                                 \
        if (!control) return call;                       \
        char path_[PATH_SIZE];                           \
        path_of(fd, name, path_);                        \
        if (failing(kind, path_)) return -1;             \
        uint64_t number_ = point(label, path_, "");      \
        __typeof__(call) result_ = call;                 \
        int kept_ = errno;                               \
        after(number_);                                  \
        errno = kept_;                                   \
        return result_;                                  \
    } while (0)

int fsync(int fd) { RUN(SYNC, fd, NULL, REAL(fsync)(fd), "fsync"); }
int fdatasync(int fd) { RUN(SYNC, fd, NULL, REAL(fdatasync)(fd), "fdatasync"); }
int syncfs(int fd) { RUN(SYNC, fd, NULL, REAL(syncfs)(fd), "syncfs"); }
int ftruncate(int fd, off_t size) { RUN(WRITE, fd, NULL, REAL(ftruncate)(fd, size), "ftruncate"); }
int ftruncate64(int fd, off64_t size) { RUN(WRITE, fd, NULL, REAL(ftruncate64)(fd, size), "ftruncate"); }
int fallocate(int fd, int mode, off_t at, off_t size) {
    RUN(WRITE, fd, NULL, REAL(fallocate)(fd, mode, at, size), "fallocate");
}
int fallocate64(int fd, int mode, off64_t at, off64_t size) {
    RUN(WRITE, fd, NULL, REAL(fallocate64)(fd, mode, at, size), "fallocate");
}
int fchmod(int fd, mode_t mode) { RUN(NAME, fd, NULL, REAL(fchmod)(fd, mode), "fchmod"); }
int chmod(const char *path, mode_t mode) { RUN(NAME, AT_FDCWD, path, REAL(chmod)(path, mode), "chmod"); }
int fchmodat(int dir, const char *name, mode_t mode, int flags) {
    RUN(NAME, dir, name, REAL(fchmodat)(dir, name, mode, flags), "fchmodat");
}
int futimens(int fd, const struct timespec times[2]) { RUN(NAME, fd, NULL, REAL(futimens)(fd, times), "futimens"); }

/* A rename is traced with the name that it had. */
#define MOVE(one, old, other, new, call, label)          \
    do {                                                 \
        if (!control) return call;                       \
        char path_[PATH_SIZE], from_[PATH_SIZE];         \
        path_of(one, old, from_);                        \
        path_of(other, new, path_);                      \
        if (failing(NAME, path_)) return -1;             \
        uint64_t number_ = point(label, path_, from_);   \
        int result_ = call, kept_ = errno;               \
        after(number_);                                  \
        errno = kept_;                                   \
        return result_;                                  \
    } while (0)

int rename(const char *old, const char *new) {
    MOVE(AT_FDCWD, old, AT_FDCWD, new, REAL(rename)(old, new), "rename");
}
int renameat(int one, const char *old, int other, const char *new) {
    MOVE(one, old, other, new, REAL(renameat)(one, old, other, new), "rename");
}
int renameat2(int one, const char *old, int other, const char *new, unsigned flags) {
    MOVE(one, old, other, new, REAL(renameat2)(one, old, other, new, flags), flags & 2 ? "exchange" : "rename");
}
int link(const char *old, const char *new) { RUN(NAME, AT_FDCWD, new, REAL(link)(old, new), "link"); }
int linkat(int one, const char *old, int other, const char *new, int flags) {
    RUN(NAME, other, new, REAL(linkat)(one, old, other, new, flags), "linkat");
}
int unlink(const char *path) { RUN(NAME, AT_FDCWD, path, REAL(unlink)(path), "unlink"); }
int unlinkat(int dir, const char *name, int flags) {
    RUN(NAME, dir, name, REAL(unlinkat)(dir, name, flags), "unlinkat");
}
int mkdir(const char *path, mode_t mode) { RUN(NAME, AT_FDCWD, path, REAL(mkdir)(path, mode), "mkdir"); }
int mkdirat(int dir, const char *name, mode_t mode) { RUN(NAME, dir, name, REAL(mkdirat)(dir, name, mode), "mkdirat"); }
int rmdir(const char *path) { RUN(NAME, AT_FDCWD, path, REAL(rmdir)(path), "rmdir"); }
int symlink(const char *to, const char *path) { RUN(NAME, AT_FDCWD, path, REAL(symlink)(to, path), "symlink"); }
int symlinkat(const char *to, int dir, const char *name) {
    RUN(NAME, dir, name, REAL(symlinkat)(to, dir, name), "symlinkat");
}

/* Writes may be torn: half of the bytes, then the end. */
#define TEAR(fd, size, half, whole, label)                                          \
    do {                                                                            \
        if (!control) return whole;                                                 \
        char path_[PATH_SIZE];                                                      \
        path_of(fd, NULL, path_);                                                   \
        if (failing(WRITE, path_)) return -1;                                       \
        uint64_t number_ = point(label, path_, "");                                 \
        if (number_ && number_ == control->kill_at && control->kill_how == TORN) {  \
            if ((size) > 1) (void)!(half);                                          \
            die(number_);                                                           \
        }                                                                           \
        ssize_t result_ = whole;                                                    \
        int kept_ = errno;                                                          \
        after(number_);                                                             \
        errno = kept_;                                                              \
        return result_;                                                             \
    } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    TEAR(fd, size, REAL(write)(fd, data, size / 2), REAL(write)(fd, data, size), "write");
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    TEAR(fd, size, REAL(pwrite)(fd, data, size / 2, at), REAL(pwrite)(fd, data, size, at), "pwrite");
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    TEAR(fd, size, REAL(pwrite64)(fd, data, size / 2, at), REAL(pwrite64)(fd, data, size, at), "pwrite");
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    TEAR(fd, parts[0].iov_len, REAL(write)(fd, parts[0].iov_base, parts[0].iov_len / 2),
         REAL(writev)(fd, parts, count), "writev");
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    TEAR(fd, parts[0].iov_len, REAL(pwrite)(fd, parts[0].iov_base, parts[0].iov_len / 2, at),
         REAL(pwritev)(fd, parts, count, at), "pwritev");
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    TEAR(fd, parts[0].iov_len, REAL(pwrite)(fd, parts[0].iov_base, parts[0].iov_len / 2, at),
         REAL(pwritev64)(fd, parts, count, at), "pwritev");
}

/* Reads are no points; they may fail. */
#define LOOK(fd, call)                               \
    do {                                             \
        if (control && control->fail_calls & READ) { \
            char path_[PATH_SIZE];                   \
            path_of(fd, NULL, path_);                \
            if (failing(READ, path_)) return -1;     \
        }                                            \
        return call;                                 \
    } while (0)

ssize_t read(int fd, void *data, size_t size) { LOOK(fd, REAL(read)(fd, data, size)); }
ssize_t pread(int fd, void *data, size_t size, off_t at) { LOOK(fd, REAL(pread)(fd, data, size, at)); }
ssize_t pread64(int fd, void *data, size_t size, off64_t at) { LOOK(fd, REAL(pread64)(fd, data, size, at)); }
ssize_t readv(int fd, const struct iovec *parts, int count) { LOOK(fd, REAL(readv)(fd, parts, count)); }
ssize_t preadv(int fd, const struct iovec *parts, int count, off_t at) { LOOK(fd, REAL(preadv)(fd, parts, count, at)); }
ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t at) {
    LOOK(fd, REAL(preadv64)(fd, parts, count, at));
}
ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    LOOK(fd, REAL(preadv2)(fd, parts, count, at, flags));
}
ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) {
    LOOK(fd, REAL(preadv64v2)(fd, parts, count, at, flags));
}

/* Opening is a point where it may make or cut a file. */
static int changes(int flags) { return flags & (O_CREAT | O_TRUNC) || (flags & O_TMPFILE) == O_TMPFILE; }

#define OPENING(dir, name, flags, call)                  \
    do {                                                 \
        if (!control) return call;                       \
        char path_[PATH_SIZE];                           \
        path_of(dir, name, path_);                       \
        if (failing(OPEN, path_)) return -1;             \
        uint64_t number_ = changes(flags) ? point("create", path_, "") : 0; \
        int result_ = (int)(call), kept_ = errno;        \
        after(number_);                                  \
        errno = kept_;                                   \
        return result_;                                  \
    } while (0)

static mode_t mode_of(int flags, va_list more) { return changes(flags) ? va_arg(more, mode_t) : 0; }

#define WITH_MODE(last) va_list more_; va_start(more_, last); mode_t mode = mode_of(flags, more_); va_end(more_)

int open(const char *path, int flags, ...) {
    WITH_MODE(flags);
    OPENING(AT_FDCWD, path, flags, REAL(open)(path, flags, mode));
}
int open64(const char *path, int flags, ...) {
    WITH_MODE(flags);
    OPENING(AT_FDCWD, path, flags, REAL(open64)(path, flags, mode));
}
int openat(int dir, const char *name, int flags, ...) {
    WITH_MODE(flags);
    OPENING(dir, name, flags, REAL(openat)(dir, name, flags, mode));
}
int openat64(int dir, const char *name, int flags, ...) {
    WITH_MODE(flags);
    OPENING(dir, name, flags, REAL(openat64)(dir, name, flags, mode));
}

/* openat2 has no function in libc: it comes as a raw call, its flags first in its third argument. */
long syscall(long number, ...) {
    va_list more;
    va_start(more, number);
    long a = va_arg(more, long), b = va_arg(more, long), c = va_arg(more, long);
    long d = va_arg(more, long), e = va_arg(more, long), f = va_arg(more, long);
    va_end(more);
    if (control && number == 437) {
        int flags = (int)*(uint64_t *)c;
        OPENING((int)a, (const char *)b, flags, REAL(syscall)(number, a, b, c, d, e, f));
    }
    return REAL(syscall)(number, a, b, c, d, e, f);
}

/* The wall clock, stepped. What the kernel stamps on files is not. */
int clock_gettime(clockid_t which, struct timespec *now) {
    int result = (int)REAL(syscall)(SYS_clock_gettime, which, now);
    if (!result && control && control->clock_ns && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
        int64_t all = now->tv_sec * 1000000000LL + now->tv_nsec + control->clock_ns;
        now->tv_sec = all / 1000000000LL;
        now->tv_nsec = all % 1000000000LL;
    }
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}
time_t time(time_t *out) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (out) *out = exact.tv_sec;
    return exact.tv_sec;
}
