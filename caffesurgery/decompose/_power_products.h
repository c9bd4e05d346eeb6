/* Products of a matrix and a vector, and the update of rank one, in the thread that calls them.
 *
 * SciPy's BLAS would start threads of its own in each of a team's.  Matrices are rows x columns in
 * Fortran order, ``pitch`` numbers from column to column.  Included by _power.c once for each
 * set of instructions: with NAME(x), x with its suffix; TARGET, which asks the compiler for them;
 * and LANES, the numbers that they take at once.
 */
typedef float NAME(lanes) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define LANES_AT(place) (*(const NAME(lanes) *)(place))

/* out = A x.  In pieces of rows that stay in the nearest cache. */
TARGET static void
NAME(along)(int rows, int columns, const float *a, Py_ssize_t pitch, const float *x, float *out)
{
    int first, k, i;

    for (first = 0; first < rows; first += PIECE) {
        const int count = rows - first < PIECE ? rows - first : PIECE;
        const float *restrict a0 = a + first;
        float *restrict to = out + first;

        memset(to, 0, (size_t)count * sizeof(float));
        for (k = 0; k + 4 <= columns; k += 4, a0 += 4 * pitch) {
            const float *restrict a1 = a0 + pitch, *restrict a2 = a1 + pitch;
            const float *restrict a3 = a2 + pitch;
            for (i = 0; i < count; i++) {
                to[i] += (a0[i] * x[k] + a1[i] * x[k + 1]) + (a2[i] * x[k + 2] + a3[i] * x[k + 3]);
            }
        }
        for (; k < columns; k++, a0 += pitch) {
            for (i = 0; i < count; i++) {
                to[i] += a0[i] * x[k];
            }
        }
    }
}

/* x' y. */
TARGET static inline float
NAME(dot)(int count, const float *x, const float *y)
{
    NAME(lanes) sums = {0};
    float sum = 0;
    int i, j;

    for (i = 0; i + LANES <= count; i += LANES) {
        sums += LANES_AT(x + i) * LANES_AT(y + i);
    }
    for (; i < count; i++) {
        sum += x[i] * y[i];
    }
    for (j = 0; j < LANES; j++) {
        sum += sums[j];
    }
    return sum;
}

/* out = A' x. */
TARGET static void
NAME(across)(int rows, int columns, const float *a, Py_ssize_t pitch, const float *x, float *out)
{
    int k, i, j;

    for (k = 0; k + 4 <= columns; k += 4, a += 4 * pitch) {
        const float *a1 = a + pitch, *a2 = a1 + pitch, *a3 = a2 + pitch;
        NAME(lanes) s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        float sums[4] = {0, 0, 0, 0};

        for (i = 0; i + LANES <= rows; i += LANES) {
            const NAME(lanes) some = LANES_AT(x + i);
            s0 += LANES_AT(a + i) * some;
            s1 += LANES_AT(a1 + i) * some;
            s2 += LANES_AT(a2 + i) * some;
            s3 += LANES_AT(a3 + i) * some;
        }
        for (; i < rows; i++) {
            sums[0] += a[i] * x[i];
            sums[1] += a1[i] * x[i];
            sums[2] += a2[i] * x[i];
            sums[3] += a3[i] * x[i];
        }
        for (j = 0; j < LANES; j++) {
            sums[0] += s0[j];
            sums[1] += s1[j];
            sums[2] += s2[j];
            sums[3] += s3[j];
        }
        memcpy(out + k, sums, sizeof(sums));
    }
    for (; k < columns; k++, a += pitch) {
        out[k] = NAME(dot)(rows, a, x);
    }
}

/* A += factor x y'.  In such pieces of x. */
TARGET static void
NAME(update)(int rows, int columns, float factor, const float *x, const float *y, float *a,
             Py_ssize_t pitch)
{
    int first, k, i;

    for (first = 0; first < rows; first += PIECE) {
        const int count = rows - first < PIECE ? rows - first : PIECE;
        const float *restrict from = x + first;
        float *restrict to = a + first;

        for (k = 0; k < columns; k++, to += pitch) {
            const float times = factor * y[k];
            for (i = 0; i < count; i++) {
                to[i] += times * from[i];
            }
        }
    }
}

#undef LANES_AT
