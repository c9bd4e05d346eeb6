/* im2col and col2im for values of one type: what one thread does of a job.
 *
 * Included by _im2col.c once for each type, with T, the type, and NAME(x), x with its suffix.
 */

/* Every step-th value; the strides that nets use are constants for the compiler. */
static inline void
NAME(every)(T *restrict to, const T *restrict from, Py_ssize_t count, Py_ssize_t step)
{
    Py_ssize_t i;

    for (i = 0; i < count; i++) {
        to[i] = from[i * step];
    }
}

static void
NAME(take)(T *to, const T *from, Py_ssize_t count, Py_ssize_t step)
{
    if (step == 1) {
        memcpy(to, from, (size_t)count * sizeof(T));
    } else if (step == 2) {
        NAME(every)(to, from, count, 2);
    } else if (step == 4) {
        NAME(every)(to, from, count, 4);
    } else {
        NAME(every)(to, from, count, step);
    }
}

/* Values with one x % stride in a row of the image. */
static inline Py_ssize_t
NAME(phase_count)(const struct plane *p, Py_ssize_t phase)
{
    return ((Py_ssize_t)(p->w.size + p->w.stride) - 1 - phase) / (Py_ssize_t)p->w.stride;
}

/* Memory for the plane with each row's values sorted by x % stride: what a kernel element meets of
   a row then lies together.  NULL where that is not worth it, or there is no memory. */
static T *
NAME(make_sorted)(const struct plane *p)
{
    const size_t count = (size_t)(p->h.size * p->w.stride) * (size_t)p->part;

    return p->part ? calloc(count, sizeof(T)) : NULL;
}

static void
NAME(sort)(const T *image, T *sorted, const struct plane *p)
{
    const Py_ssize_t step = (Py_ssize_t)p->w.stride, width = (Py_ssize_t)p->w.size;
    Py_ssize_t y, phase;

    for (y = 0; y < p->h.size; y++, image += width) {
        for (phase = 0; phase < step; phase++, sorted += p->part) {
            NAME(take)(sorted, image + phase, NAME(phase_count)(p, phase), step);
        }
    }
}

static void
NAME(unsort)(T *restrict image, const T *restrict sorted, const struct plane *p)
{
    const Py_ssize_t step = (Py_ssize_t)p->w.stride, width = (Py_ssize_t)p->w.size;
    Py_ssize_t y, phase, i;

    for (y = 0; y < p->h.size; y++, image += width) {
        for (phase = 0; phase < step; phase++, sorted += p->part) {
            const Py_ssize_t count = NAME(phase_count)(p, phase);
            for (i = 0; i < count; i++) {
                image[phase + i * step] = sorted[i];
            }
        }
    }
}

/* Where the values begin that a kernel column meets in row 0 of the plane, which may be sorted. */
static inline Py_ssize_t
NAME(begin)(const struct plane *p, struct span x, int sorted)
{
    const Py_ssize_t step = (Py_ssize_t)p->w.stride, left = x.first * step + x.offset;

    return sorted ? left % step * p->part + left / step : left;
}

/* Stride 1 and out.w == in.w: a row of columns is the plane shifted, so one copy does; what it
   carries around the ends of the image's rows is padding and is cleared afterwards. */
static void
NAME(shift)(const T *image, T *row, const struct plane *p, struct span y, struct span x)
{
    const Py_ssize_t width = (Py_ssize_t)p->w.out;
    const Py_ssize_t begin = y.first * width + x.first;
    const Py_ssize_t end = (y.last - 1) * width + x.last;
    Py_ssize_t oy, ox;

    memset(row, 0, (size_t)begin * sizeof(T));
    memcpy(row + begin, image + ((y.first + y.offset) * width + x.first + x.offset),
           (size_t)(end - begin) * sizeof(T));
    memset(row + end, 0, (size_t)(p->out_count - end) * sizeof(T));
    for (oy = y.first; oy < y.last - 1; oy++) {
        for (ox = x.last; ox < width + x.first; ox++) {
            row[oy * width + ox] = 0;
        }
    }
}

/* Output rows begin..end - 1 into ``to``; ``sorted`` is NULL, or the sorted plane. */
static void
NAME(gather)(const T *image, const T *sorted, T *to, const struct plane *p, struct span y,
             struct span x, Py_ssize_t begin, Py_ssize_t end)
{
    const Py_ssize_t width = (Py_ssize_t)p->w.out, stride = (Py_ssize_t)p->w.stride;
    const Py_ssize_t step = sorted == NULL ? stride : 1, count = x.last - x.first;
    const Py_ssize_t pitch = sorted == NULL ? (Py_ssize_t)p->w.size : stride * p->part;
    const T *from = (sorted == NULL ? image : sorted) + NAME(begin)(p, x, sorted != NULL);
    Py_ssize_t oy, ox;

    for (oy = begin; oy < end; oy++, to += width) {
        if (oy < y.first || oy >= y.last) {
            memset(to, 0, (size_t)width * sizeof(T));
            continue;
        }
        for (ox = 0; ox < x.first; ox++) {
            to[ox] = 0;
        }
        NAME(take)(to + x.first, from + (oy * (Py_ssize_t)p->h.stride + y.offset) * pitch, count,
                   step);
        for (ox = x.last; ox < width; ox++) {
            to[ox] = 0;
        }
    }
}

/* One row of columns, which meets the image somewhere: there at once, or, where it is to be
   streamed, in pieces that are made in ``near``. */
static void
NAME(row)(const T *image, const T *sorted, T *row, T *near, const struct plane *p, struct span y,
          struct span x)
{
    const Py_ssize_t width = (Py_ssize_t)p->w.out, high = (Py_ssize_t)p->h.out;
    const Py_ssize_t room = NEAR_BYTES / (Py_ssize_t)sizeof(T);
    const Py_ssize_t band = near == NULL ? high : room / width;
    const int shifted = p->h.stride == 1 && p->w.stride == 1 && p->w.out == p->w.size &&
                        p->out_count <= room;
    Py_ssize_t oy, end;

    for (oy = 0; oy < high; oy = end) {
        T *to = near == NULL ? row + oy * width : near;
        end = band < high - oy ? oy + band : high;
        if (shifted) {
            NAME(shift)(image, to, p, y, x);
        } else {
            NAME(gather)(image, sorted, to, p, y, x, oy, end);
        }
        if (near != NULL) {
            stream(row + oy * width, near, (size_t)((end - oy) * width) * sizeof(T));
        }
    }
}

/* Kernel rows first..last - 1, counted through all channels. */
static void
NAME(im2col)(const struct job *job, Py_ssize_t first, Py_ssize_t last)
{
    const struct plane *p = &job->plane;
    const Py_ssize_t high = (Py_ssize_t)p->h.kernel, wide = (Py_ssize_t)p->w.kernel;
    const Py_ssize_t room = NEAR_BYTES / (Py_ssize_t)sizeof(T);
    T near[NEAR_BYTES / sizeof(T)], *piece = HAVE_STREAM && job->far && p->w.out <= room ? near : NULL;
    T *row = (T *)job->columns.buf + first * wide * p->out_count, *sorted = NAME(make_sorted)(p);
    Py_ssize_t unit, kx, met = -1;

    for (unit = first; unit < last; unit++) {
        const struct span y = meet(&p->h, unit % high);
        const T *image = (const T *)job->image.buf + unit / high * p->in_count;
        if (sorted != NULL && met != unit / high) {
            met = unit / high;
            NAME(sort)(image, sorted, p);
        }
        for (kx = 0; kx < wide; kx++, row += p->out_count) {
            const struct span x = meet(&p->w, kx);
            if (y.first == y.last || x.first == x.last) {
                memset(row, 0, (size_t)p->out_count * sizeof(T));
            } else {
                NAME(row)(image, sorted, row, piece, p, y, x);
            }
        }
    }
    end_stream();
    free(sorted);
}

static inline void
NAME(add)(T *restrict to, const T *restrict from, Py_ssize_t count, Py_ssize_t step)
{
    Py_ssize_t i;

    for (i = 0; i < count; i++) {
        to[i * step] += from[i];
    }
}

/* One row of columns added to the plane, which may be sorted; ``far`` rows are fetched. */
static void
NAME(add_row)(T *plane, const T *row, const struct plane *p, struct span y, struct span x,
              int sorted, int far)
{
    const Py_ssize_t width = (Py_ssize_t)p->w.out, stride = (Py_ssize_t)p->w.stride;
    const Py_ssize_t step = sorted ? 1 : stride, count = x.last - x.first;
    const Py_ssize_t pitch = sorted ? stride * p->part : (Py_ssize_t)p->w.size;
    Py_ssize_t oy;

    if (count == 0) {
        return;
    }
    plane += NAME(begin)(p, x, sorted);
    for (oy = y.first; oy < y.last; oy++) {
        T *to = plane + (oy * (Py_ssize_t)p->h.stride + y.offset) * pitch;
        if (far) {
            fetch(row + oy * width, (size_t)width * sizeof(T));
        }
        if (step == 1) {
            NAME(add)(to, row + oy * width + x.first, count, 1);
        } else {
            NAME(add)(to, row + oy * width + x.first, count, step);
        }
    }
}

/* Channels first..last - 1. */
static void
NAME(col2im)(const struct job *job, Py_ssize_t first, Py_ssize_t last)
{
    const struct plane *p = &job->plane;
    const Py_ssize_t high = (Py_ssize_t)p->h.kernel, wide = (Py_ssize_t)p->w.kernel;
    const T *row = (const T *)job->columns.buf + first * high * wide * p->out_count;
    T *image = (T *)job->image.buf + first * p->in_count, *sorted = NAME(make_sorted)(p);
    const size_t sums = (size_t)(sorted == NULL ? p->in_count : p->h.size * p->w.stride * p->part);
    Py_ssize_t c, ky, kx;

    for (c = first; c < last; c++, image += p->in_count) {
        T *plane = sorted == NULL ? image : sorted;
        memset(plane, 0, sums * sizeof(T));
        for (ky = 0; ky < high; ky++) {
            const struct span y = meet(&p->h, ky);
            for (kx = 0; kx < wide; kx++, row += p->out_count) {
                NAME(add_row)(plane, row, p, y, meet(&p->w, kx), sorted != NULL, job->far);
            }
        }
        if (sorted != NULL) {
            NAME(unsort)(image, sorted, p);
        }
    }
    free(sorted);
}
