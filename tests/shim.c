/* Loaded before the C library: counts a process's calls that change files under one folder, and makes the chosen one
 * fail, or kills the process there. tests/shim.py says how it is used.
 *
 * shim_arm(folder, only, log, n, how, error): of the calls on paths under ``folder`` whose note holds the text ``only``,
 * number ``n`` (from 1) is chosen.
 *   how  0: none, they are only counted          1: it fails with errno ``error``
 *        2: it and all after it fail             3: the process is killed before it
 *        4: the process is killed after it       5: of a write, half is written, then the process is killed
 * Every such call is noted in the file descriptor ``log``, as a line "NUMBER NAME PATH", before it is made.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, FAIL, FAIL_ON, KILL_BEFORE, KILL_AFTER, KILL_HALF };

static char folder[PATH_MAX], only[PATH_MAX];
static int armed, count, last, chosen, how, error_number, log_to = -1;

void shim_arm(const char *path, const char *text, int log, int n, int mode, int error) {
    snprintf(folder, sizeof folder, "%s/", path);
    snprintf(only, sizeof only, "%s", text);
    log_to = log, count = 0, chosen = n, how = mode, error_number = error, armed = 1;
}

int shim_disarm(void) {
    armed = 0;
    return count;
}

static void die(void) {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
}

static int under(const char *path) {
    return strncmp(path, folder, strlen(folder)) == 0;
}

/* Whether this call, if it counts, goes wrong: 0 no, -1 yes with errno set. */
static int before(const char *name, const char *path) {
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%d %s %s\n", count + 1, name, path);
    last = strstr(line, only) != NULL;
    if (!last) return 0;
    count++;
    if (log_to >= 0) syscall(SYS_write, log_to, line, (size_t)length);
    if (how == KILL_BEFORE && count == chosen) die();
    if ((how == FAIL && count == chosen) || (how == FAIL_ON && chosen && count >= chosen)) {
        errno = error_number;
        return -1;
    }
    return 0;
}

static void after(void) {
    int kept = errno;
    if (last && how == KILL_AFTER && count == chosen) die();
    errno = kept;
}

/* The absolute path of a name beside ``at``; 0 where the call does not count. */
static int counts_at(int at, const char *name, char *path) {
    if (!armed || !name) return 0;
    path[0] = 0;
    if (name[0] != '/') {
        char link[64];
        ssize_t n;
        if (at == AT_FDCWD) strcpy(link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        n = readlink(link, path, PATH_MAX - 2);
        if (n < 0) return 0;
        path[n] = '/', path[n + 1] = 0;
    }
    strncat(path, name, PATH_MAX - 1 - strlen(path));
    return under(path);
}

static int counts_fd(int fd, char *path) {
    char link[64];
    ssize_t n;
    if (!armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, PATH_MAX - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return under(path) || strncmp(path, folder, strlen(folder) - 1) == 0;
}

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define CHANGE(result, name, at, path_of, call) do { \
        char path[PATH_MAX]; \
        result found; \
        int counted = counts_at(at, path_of, path); \
        if (counted && before(name, path)) return -1; \
        found = call; \
        if (counted) after(); \
        return found; \
    } while (0)

#define OPEN(symbol) \
    int symbol(const char *name, int flags, ...) { \
        mode_t mode = 0; \
        REAL(int, #symbol, const char *, int, ...); \
        if (flags & (O_CREAT | __O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); } \
        if (!(flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))) return real(name, flags, mode); \
        CHANGE(int, "open", AT_FDCWD, name, real(name, flags, mode)); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(symbol) \
    int symbol(int at, const char *name, int flags, ...) { \
        mode_t mode = 0; \
        REAL(int, #symbol, int, const char *, int, ...); \
        if (flags & (O_CREAT | __O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); } \
        if (!(flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))) return real(at, name, flags, mode); \
        CHANGE(int, "open", at, name, real(at, name, flags, mode)); \
    }
OPENAT(openat)
OPENAT(openat64)

#define CREAT(symbol) \
    int symbol(const char *name, mode_t mode) { \
        REAL(int, #symbol, const char *, mode_t); \
        CHANGE(int, "open", AT_FDCWD, name, real(name, mode)); \
    }
CREAT(creat)
CREAT(creat64)

ssize_t write(int fd, const void *bytes, size_t size) {
    char path[PATH_MAX];
    ssize_t found;
    int counted = counts_fd(fd, path);
    REAL(ssize_t, "write", int, const void *, size_t);
    if (counted && before("write", path)) return -1;
    if (counted && last && how == KILL_HALF && count == chosen) {
        real(fd, bytes, size / 2);
        die();
    }
    found = real(fd, bytes, size);
    if (counted) after();
    return found;
}

#define ON_FD(result, symbol, shown, parameters, arguments, ...) \
    result symbol parameters { \
        char path[PATH_MAX]; \
        result found; \
        int counted = counts_fd(fd, path); \
        REAL(result, #symbol, __VA_ARGS__); \
        if (counted && before(shown, path)) return -1; \
        found = real arguments; \
        if (counted) after(); \
        return found; \
    }
ON_FD(ssize_t, pwrite, "write", (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), int, const void *, size_t, off_t)
ON_FD(ssize_t, pwrite64, "write", (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), int, const void *, size_t, off64_t)
ON_FD(ssize_t, writev, "write", (int fd, const struct iovec *v, int n), (fd, v, n), int, const struct iovec *, int)
ON_FD(int, fsync, "fsync", (int fd), (fd), int)
ON_FD(int, fdatasync, "fsync", (int fd), (fd), int)
ON_FD(int, ftruncate, "truncate", (int fd, off_t n), (fd, n), int, off_t)
ON_FD(int, ftruncate64, "truncate", (int fd, off64_t n), (fd, n), int, off64_t)

int truncate(const char *name, off_t n) {
    REAL(int, "truncate", const char *, off_t);
    CHANGE(int, "truncate", AT_FDCWD, name, real(name, n));
}

int truncate64(const char *name, off64_t n) {
    REAL(int, "truncate64", const char *, off64_t);
    CHANGE(int, "truncate", AT_FDCWD, name, real(name, n));
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    CHANGE(int, "rename", AT_FDCWD, to, real(from, to));
}

int renameat(int from_at, const char *from, int at, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    CHANGE(int, "rename", at, to, real(from_at, from, at, to));
}

int unlink(const char *name) {
    REAL(int, "unlink", const char *);
    CHANGE(int, "unlink", AT_FDCWD, name, real(name));
}

int unlinkat(int at, const char *name, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    CHANGE(int, "unlink", at, name, real(at, name, flags));
}

int rmdir(const char *name) {
    REAL(int, "rmdir", const char *);
    CHANGE(int, "rmdir", AT_FDCWD, name, real(name));
}

int mkdir(const char *name, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    CHANGE(int, "mkdir", AT_FDCWD, name, real(name, mode));
}

int mkdirat(int at, const char *name, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    CHANGE(int, "mkdir", at, name, real(at, name, mode));
}

int link(const char *from, const char *to) {
    REAL(int, "link", const char *, const char *);
    CHANGE(int, "link", AT_FDCWD, to, real(from, to));
}

int linkat(int from_at, const char *from, int at, const char *to, int flags) {
    REAL(int, "linkat", int, const char *, int, const char *, int);
    CHANGE(int, "link", at, to, real(from_at, from, at, to, flags));
}

int symlink(const char *from, const char *to) {
    REAL(int, "symlink", const char *, const char *);
    CHANGE(int, "link", AT_FDCWD, to, real(from, to));
}

int symlinkat(const char *from, int at, const char *to) {
    REAL(int, "symlinkat", const char *, int, const char *);
    CHANGE(int, "link", at, to, real(from, at, to));
}
