/* Threads that seek a component together: what each of them has, its products, and how they meet.
 *
 * Each thread has a range of the outputs t and what the kernel, the plane and ``outputs`` hold of
 * these, which stays in its core's caches; of the small vectors it has copies of its own.  Products
 * that add over t give each thread a sum over its range; it shows that to the others and adds up
 * what they show, in the order of the threads, so that all of them go on with the same numbers.
 * Without a team the calls of BLAS are made that Python makes.  Included by _power.c alone.
 */
#if defined(__GNUC__) && !defined(_WIN32) && !defined(__STDC_NO_ATOMICS__)
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#define HAVE_TEAM 1
/* Looks at another thread's step before the processor is offered to others. */
#define LOOKS 400
/* After how many more a helper ends that is not needed: some tenths of a millisecond. */
#define PATIENCE 800
#else
#define HAVE_TEAM 0
#endif

/* Numbers of a vector that stay in the nearest cache. */
#define PIECE 1024
/* How many threads a call can be given; their state lies on its stack. */
#define MOST_THREADS 64
/* What the lengths of the threads' own vectors are multiples of: a cache line, and they are apart. */
#define APART 16

struct products {
    void (*along)(int, int, const float *, Py_ssize_t, const float *, float *);
    void (*across)(int, int, const float *, Py_ssize_t, const float *, float *);
    void (*update)(int, int, float, const float *, const float *, float *, Py_ssize_t);
};

struct team;

/* A kernel's residual (K, T, S), K = D E, and the component that is sought in it, by one thread. */
struct search {
    int S, D, E, K;
    int T, TS;        /* the thread's outputs, and what the plane has of these */
    Py_ssize_t pitch; /* numbers of the residual from one spatial position to the next */
    int separate;     /* whether the spatial pattern is vertical times horizontal */
    float *residual;
    float *pairs, *plane;     /* (K, T), (T, S): contracted with inputs, with the pattern */
    float *inputs, *outputs;  /* (S,), (T,) */
    float *image, *shape;     /* (K,): contracted with inputs and outputs; the pattern */
    float *vertical, *horizontal, *best; /* (D,), (E,); room for the vectors of the best start */
    float *slots;             /* (2, room): what is shown to the others */
    int room;
    int polish, sweeps;
    double gain, tiny;
    int rank;                 /* of the thread in its team */
    struct team *team;
#if HAVE_TEAM
    const struct products *products;
    unsigned step;    /* how often it has shown something */
    char before[64];  /* a cache line for what others look at */
    atomic_uint shown;
    atomic_int done;
    char after[64];
#endif
};

struct team {
    int count;
    int blas; /* whether the products are BLAS's: in one thread only */
    float *gram; /* (K, K), where that is to be done; else NULL, and a component is sought */
    const float *starts; /* (starts_count, K) */
    Py_ssize_t starts_count;
    double weight; /* of the component that was found */
    struct search members[MOST_THREADS];
};

static void
copy(float *to, const float *from, int count)
{
    memcpy(to, from, (size_t)count * sizeof(float));
}

#if HAVE_TEAM
#define NAME(x) x##_plain
#define TARGET
#define LANES 4
#include "_power_products.h"
#undef NAME
#undef TARGET
#undef LANES
static const struct products plain = {along_plain, across_plain, update_plain};

#ifdef __x86_64__
#define NAME(x) x##_wide
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#include "_power_products.h"
#undef NAME
#undef TARGET
#undef LANES
static const struct products wide = {along_wide, across_wide, update_wide};
#endif

static const struct products *
best_products(void)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return &wide;
    }
#endif
    return &plain;
}

/* Between two looks at what another thread has done.  It may wait for the processor of this one. */
static void
pause_between(unsigned looks)
{
    if (looks >= LOOKS) {
        sched_yield();
        return;
    }
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Shows the others a vector, and waits until each has shown its own; those are in their slots until
   one shows something for the second time after this. */
static void
show(struct search *s, const float *vector, int count)
{
    struct search *members = s->team->members;
    const unsigned step = ++s->step;
    unsigned looks = 0;
    int i;

    copy(s->slots + step % 2 * (unsigned)s->room, vector, count);
    atomic_store_explicit(&s->shown, step, memory_order_release);
    for (i = 0; i < s->team->count; i++) {
        while ((int)(atomic_load_explicit(&members[i].shown, memory_order_acquire) - step) < 0) {
            pause_between(looks++);
        }
    }
}

/* What a thread of the team has shown. */
static const float *
slot(const struct search *s, int rank)
{
    return s->team->members[rank].slots + s->step % 2 * (unsigned)s->room;
}
#else
static void
show(struct search *s, const float *vector, int count)
{
    (void)s, (void)vector, (void)count;
}

static const float *
slot(const struct search *s, int rank)
{
    (void)rank;
    return s->slots;
}
#endif

/* out = A x, or A' x where ``turned``; A is rows x columns in Fortran order. */
static void
times(const struct search *s, int turned, int rows, int columns, float *a, Py_ssize_t pitch,
      float *x, float *out)
{
    float one = 1, zero = 0;
    int step = 1, leading = (int)pitch;

#if HAVE_TEAM
    if (!s->team->blas) {
        (turned ? s->products->across : s->products->along)(rows, columns, a, pitch, x, out);
        return;
    }
#endif
    (void)s;
    sgemv((char *)(uintptr_t)(turned ? "T" : "N"), &rows, &columns, &one, a, &leading, x, &step,
          &zero, out, &step);
}

/* A += factor x y'. */
static void
update(const struct search *s, int rows, int columns, float factor, float *x, float *y, float *a,
       Py_ssize_t pitch)
{
    int step = 1, leading = (int)pitch;

#if HAVE_TEAM
    if (!s->team->blas) {
        s->products->update(rows, columns, factor, x, y, a, pitch);
        return;
    }
#endif
    (void)s;
    sger(&rows, &columns, &factor, x, &step, y, &step, a, &leading);
}

/* The residual contracted with inputs. */
static void
take_inputs(struct search *s)
{
    int k;

    if (s->pitch == s->TS) {
        times(s, 1, s->S, s->K * s->T, s->residual, s->S, s->inputs, s->pairs);
        return;
    }
    for (k = 0; k < s->K; k++) {
        times(s, 1, s->S, s->T, s->residual + k * s->pitch, s->S, s->inputs, s->pairs + k * s->T);
    }
}

/* The residual contracted with the spatial pattern. */
static void
take_pattern(struct search *s)
{
    times(s, 0, s->TS, s->K, s->residual, s->pitch, s->shape, s->plane);
}

/* A vector that each thread has a part of the sum of: the sum. */
static void
add_up(struct search *s, float *vector, int count)
{
    int rank, i;

    if (s->team->count > 1) {
        show(s, vector, count);
        copy(vector, slot(s, 0), count);
        for (rank = 1; rank < s->team->count; rank++) {
            const float *part = slot(s, rank);
            for (i = 0; i < count; i++) {
                vector[i] += part[i];
            }
        }
    }
}

/* A number as the first thread has it: what the threads decide by must be the same to the bit. */
static double
agreed(struct search *s, double number)
{
    const float own = (float)number;

    if (s->team->count > 1) {
        show(s, &own, 1);
        return slot(s, 0)[0];
    }
    return number;
}

/* ``pairs`` contracted with outputs. */
static void
take_outputs(struct search *s)
{
    times(s, 1, s->T, s->K, s->pairs, s->T, s->outputs, s->image);
    add_up(s, s->image, s->K);
}

static void
divide(const struct search *s, int count, float *vector, double norm)
{
    int step = 1;

    if (norm > s->tiny) {
        float factor = (float)(1 / norm);
        sscal(&count, &factor, vector, &step);
    }
}

/* Divides a vector by its norm, which is returned. */
static double
unit(const struct search *s, int count, float *vector)
{
    int step = 1;
    const double norm = snrm2(&count, vector, &step);

    divide(s, count, vector, norm);
    return norm;
}

/* The same for ``outputs``, of which each thread has a range. */
static double
unit_outputs(struct search *s)
{
    int step = 1, rank;
    const float own = snrm2(&s->T, s->outputs, &step);
    double norm = own, squares = 0;

    if (s->team->count > 1) {
        show(s, &own, 1);
        for (rank = 0; rank < s->team->count; rank++) {
            squares += (double)slot(s, rank)[0] * slot(s, rank)[0];
        }
        norm = sqrt(squares);
    }
    divide(s, s->T, s->outputs, norm);
    return norm;
}
