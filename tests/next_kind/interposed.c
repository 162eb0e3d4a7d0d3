/* System calls that change files under one folder: counted, failed where asked, and recorded.
   Preloaded into a Python process; tests/next_kind/interposed.py builds it and sets it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 65536 /* descriptors that are followed */

static char root[PATH_MAX];
static size_t root_length;
static char followed[MOST];
static long seen, chosen;         /* calls since the start; the one that fails, 0 for none */
static int number, lasting, half; /* errno; all after it too; a short write instead */
static int record = -1;           /* where calls are written down */
static char failed_call[64];      /* the name of the first call that failed */
static long ordinal;              /* calls of one kind are counted where `only` names it */
static char only[16];

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

void interposed_set(const char *folder, int descriptor) {
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    record = descriptor;
    seen = chosen = 0;
}

void interposed_fail(long which, int error, int stays, int shortened, const char *kind) {
    seen = ordinal = 0;
    chosen = which;
    number = error;
    lasting = stays;
    half = shortened;
    failed_call[0] = 0;
    snprintf(only, sizeof only, "%s", kind);
}

long interposed_seen(void) { return only[0] ? ordinal : seen; }
const char *interposed_failed(void) { return failed_call; }

/* Whether a path lies under the folder; full: where its absolute form is put. */
static int under(int at, const char *path, char *full) {
    size_t length;
    if (!root_length || !path) return 0;
    if (path[0] == '/') snprintf(full, PATH_MAX, "%s", path);
    else if (at == AT_FDCWD) {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(full, PATH_MAX, "%s/%s", here, path);
    } else {
        char link[64], here[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t end = readlink(link, here, sizeof here - 1);
        if (end < 0) return 0;
        here[end] = 0;
        snprintf(full, PATH_MAX, "%s/%s", here, path);
    }
    length = strlen(full);
    while (length > 1 && full[length - 1] == '/') full[--length] = 0;
    return !strncmp(full, root, root_length) && (full[root_length] == '/' || !full[root_length]);
}

static int is_followed(int fd) { return root_length && fd >= 0 && fd < MOST && followed[fd]; }

/* Whether this call is to fail. */
static int fails(const char *call, const char *kind, int is_write) {
    seen++;
    if (only[0] && strcmp(only, kind)) return 0;
    ordinal++;
    long now = only[0] ? ordinal : seen;
    if (!chosen || now < chosen || (now > chosen && !lasting)) return 0;
    if (half && !is_write) return 0;
    if (!failed_call[0]) snprintf(failed_call, sizeof failed_call, "%s", call);
    if (half) return 2;
    errno = number;
    return 1;
}

static void raw(const void *data, size_t length) {
    const char *from = data;
    while (length) {
        ssize_t done = syscall(SYS_write, record, from, length);
        if (done <= 0) return;
        from += done;
        length -= done;
    }
}

static void note(const char *call, int fd, long a, long b, const char *one, const char *two,
                 const void *data, size_t length) {
    if (record < 0) return;
    int kept = errno;
    char line[2 * PATH_MAX + 128];
    int size = snprintf(line, sizeof line, "%s\t%d\t%ld\t%ld\t%s\t%s\t%zu\n", call, fd, a, b, one,
                        two, length);
    raw(line, size);
    raw(data, length);
    errno = kept;
}

static int opened(int fd, int flags, const char *full, int inside) {
    if (fd < 0 || fd >= MOST) return fd;
    followed[fd] = inside;
    if (inside) note("open", fd, flags, (flags & O_TMPFILE) == O_TMPFILE, full, "", "", 0);
    return fd;
}

#define OPENING(name, at, path, call)                                                      \
    mode_t mode = 0;                                                                        \
    char full[PATH_MAX];                                                                    \
    int inside = under(at, path, full);                                                     \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                    \
        va_list rest;                                                                       \
        va_start(rest, flags);                                                              \
        mode = va_arg(rest, mode_t);                                                        \
        va_end(rest);                                                                       \
    }                                                                                       \
    if (inside && fails(#name, "open", 0)) return -1;                                       \
    return opened(call, flags, full, inside);

int open(const char *path, int flags, ...) {
    OPENING(open, AT_FDCWD, path, REAL(open)(path, flags, mode))
}
int open64(const char *path, int flags, ...) {
    OPENING(open, AT_FDCWD, path, REAL(open64)(path, flags, mode))
}
int openat(int at, const char *path, int flags, ...) {
    OPENING(open, at, path, REAL(openat)(at, path, flags, mode))
}
int openat64(int at, const char *path, int flags, ...) {
    OPENING(open, at, path, REAL(openat64)(at, path, flags, mode))
}

int close(int fd) {
    if (fd >= 0 && fd < MOST) followed[fd] = 0;
    return REAL(close)(fd);
}

ssize_t write(int fd, const void *data, size_t size) {
    if (!is_followed(fd)) return REAL(write)(fd, data, size);
    int what = fails("write", "write", 1);
    if (what == 1) return -1;
    if (what == 2 && size > 1) size /= 2;
    ssize_t done = REAL(write)(fd, data, size);
    if (done > 0) note("write", fd, lseek(fd, 0, SEEK_CUR) - done, 0, "", "", data, done);
    return done;
}

static ssize_t written_at(int fd, const void *data, size_t size, off_t place) {
    if (!is_followed(fd)) return syscall(SYS_pwrite64, fd, data, size, place);
    int what = fails("pwrite", "write", 1);
    if (what == 1) return -1;
    if (what == 2 && size > 1) size /= 2;
    ssize_t done = syscall(SYS_pwrite64, fd, data, size, place);
    if (done > 0) note("write", fd, place, 0, "", "", data, done);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t place) {
    return written_at(fd, data, size, place);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t place) {
    return written_at(fd, data, size, place);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!is_followed(fd)) return REAL(writev)(fd, parts, count);
    return count ? write(fd, parts[0].iov_base, parts[0].iov_len) : 0; /* a short one is allowed */
}

/* Copies inside the kernel are refused, so that their callers read and write. */
ssize_t sendfile(int out, int in, off_t *place, size_t size) {
    if (!is_followed(out)) return syscall(SYS_sendfile, out, in, place, size);
    errno = EINVAL;
    return -1;
}
ssize_t sendfile64(int out, int in, off64_t *place, size_t size) {
    return sendfile(out, in, (off_t *)place, size);
}
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t size, unsigned flags) {
    if (!is_followed(out)) return syscall(SYS_copy_file_range, in, a, out, b, size, flags);
    errno = EINVAL;
    return -1;
}

static int synced(const char *call, int fd, int (*act)(int)) {
    if (!is_followed(fd)) return act(fd);
    if (fails(call, "sync", 0)) return -1;
    int done = act(fd);
    if (!done) note("sync", fd, 0, 0, "", "", "", 0);
    return done;
}
int fsync(int fd) { return synced("fsync", fd, REAL(fsync)); }
int fdatasync(int fd) { return synced("fdatasync", fd, REAL(fdatasync)); }

static int cut(int fd, off_t size) {
    if (!is_followed(fd)) return syscall(SYS_ftruncate, fd, size);
    if (fails("ftruncate", "truncate", 0)) return -1;
    int done = syscall(SYS_ftruncate, fd, size);
    if (!done) note("truncate", fd, size, 0, "", "", "", 0);
    return done;
}
int ftruncate(int fd, off_t size) { return cut(fd, size); }
int ftruncate64(int fd, off64_t size) { return cut(fd, size); }

int renameat(int from_at, const char *from, int to_at, const char *to) {
    char one[PATH_MAX], two[PATH_MAX];
    int inside = under(from_at, from, one) & under(to_at, to, two);
    if (inside && fails("rename", "rename", 0)) return -1;
    int done = REAL(renameat)(from_at, from, to_at, to);
    if (inside && !done) note("rename", -1, 0, 0, one, two, "", 0);
    return done;
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int unlinkat(int at, const char *path, int flags) {
    char full[PATH_MAX];
    int inside = under(at, path, full);
    if (inside && fails("unlink", "unlink", 0)) return -1;
    int done = REAL(unlinkat)(at, path, flags);
    if (inside && !done) note("unlink", -1, 0, 0, full, "", "", 0);
    return done;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int at, const char *path, mode_t mode) {
    char full[PATH_MAX];
    int inside = under(at, path, full);
    if (inside && fails("mkdir", "mkdir", 0)) return -1;
    int done = REAL(mkdirat)(at, path, mode);
    if (inside && !done) note("mkdir", -1, 0, 0, full, "", "", 0);
    return done;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
