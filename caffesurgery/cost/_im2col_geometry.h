/* What im2col and col2im work on: one axis, one channel's plane, one call; and how to write past
 * the caches.  Included by _im2col.c alone.
 */
#if defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#define HAVE_STREAM 1
#else
#define HAVE_STREAM 0
#endif

/* What is still in the nearest cache when it is touched again. */
#define NEAR_BYTES 16384
/* Columns that no cache holds: they are written past it, and fetched before they are read. */
#define FAR_BYTES (20 << 20)
/* How far before. */
#define FETCH_BYTES 4096

/* One axis.  Every value fits an int, as in Caffe, so int64 arithmetic on them cannot overflow. */
struct axis {
    int64_t size, kernel, pad, stride, dilation, out;
};

/* Output positions first <= o < last of one axis meet the image, at o * stride + offset. */
struct span {
    Py_ssize_t first, last, offset;
};

struct plane {
    struct axis h, w;
    Py_ssize_t in_count, out_count; /* values in one channel of the image, in one row of columns */
    Py_ssize_t part; /* values of an image's row with one x % stride; 0: not worth sorting */
};

/* Everything one call needs, checked; the two buffers are held until release(). */
struct job {
    Py_buffer image, columns;
    struct plane plane;
    Py_ssize_t channels; /* over the whole batch: channels do not mix */
    Py_ssize_t threads;
    int far; /* whether no cache holds the columns */
};

static struct span
meet(const struct axis *axis, int64_t k)
{
    struct span span = {0, 0, 0};
    const int64_t offset = k * axis->dilation - axis->pad;
    const int64_t first = offset >= 0 ? 0 : (-offset + axis->stride - 1) / axis->stride;
    int64_t last = offset < axis->size ? (axis->size - 1 - offset) / axis->stride + 1 : 0;

    if (last > axis->out) {
        last = axis->out;
    }
    if (first < last) {
        span.first = (Py_ssize_t)first;
        span.last = (Py_ssize_t)last;
    }
    span.offset = (Py_ssize_t)offset;
    return span;
}

/* A copy that does not fetch the target's cache lines before it writes them. */
static void
stream(void *target, const void *source, size_t bytes)
{
#if HAVE_STREAM
    char *to = target;
    const char *from = source;
    size_t head = (size_t)(-(uintptr_t)to % sizeof(__m128i));

    head = head < bytes ? head : bytes;
    memcpy(to, from, head);
    for (to += head, from += head, bytes -= head; bytes >= 16; to += 16, from += 16, bytes -= 16) {
        _mm_stream_si128((__m128i *)(void *)to, _mm_loadu_si128((const __m128i *)(const void *)from));
    }
    memcpy(to, from, bytes);
#else
    memcpy(target, source, bytes);
#endif
}

/* Ask for memory that is read soon; what lies behind an array's end may be named too. */
static inline void
fetch(const void *soon, size_t bytes)
{
#ifdef __GNUC__
    const uintptr_t begin = (uintptr_t)soon + FETCH_BYTES;
    size_t i;

    for (i = 0; i < bytes; i += 64) {
        __builtin_prefetch((const void *)(begin + i));
    }
#else
    (void)soon, (void)bytes;
#endif
}

/* To be called by a thread that streamed, before another one may read. */
static void
end_stream(void)
{
#if HAVE_STREAM
    _mm_sfence();
#endif
}
