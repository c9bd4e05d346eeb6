/* The search for one component, its deflation, and the Gram matrix: what each thread of a team does.
 *
 * It is what power.py's _Merged and _Separate do, sweep after sweep.  Included by _power.c alone.
 */

/* Whether a number is larger than ``most``, or the first NaN, as NumPy's argmax has it. */
static int
tops(float number, float most)
{
    return most == most && (number > most || number != number);
}

/* The row of the largest norm; its square into ``most``. */
static float *
largest(float *rows, int count, int length, float *most)
{
    float *found = rows;
    int i, step = 1;

    *most = -1;
    for (i = 0; i < count; i++, rows += length) {
        const float square = sdot(&length, rows, &step, rows, &step);
        if (tops(square, *most)) {
            found = rows;
            *most = square;
        }
    }
    return found;
}

/* Inputs to begin with: the plane's row of the largest norm. */
static void
begin(struct search *s)
{
    int rank, best = 0;
    float most, *row = largest(s->plane, s->T, s->S, &most);

    copy(s->inputs, row, s->S);
    if (s->team->count > 1) {
        show(s, &most, 1);
        for (rank = 1; rank < s->team->count; rank++) {
            best = tops(slot(s, rank)[0], slot(s, best)[0]) ? rank : best;
        }
        if (best != s->rank) {
            memset(s->inputs, 0, (size_t)s->S * sizeof(float));
        }
        add_up(s, s->inputs, s->S);
    }
}

/* The pattern best for ``image``, from the vectors that are there; returns the norm there. */
static double
pattern(struct search *s)
{
    double norm;
    int d, e;

    if (!s->separate) {
        copy(s->shape, s->image, s->K);
        return unit(s, s->K, s->shape);
    }
    times(s, 1, s->E, s->D, s->image, s->E, s->horizontal, s->vertical);
    unit(s, s->D, s->vertical);
    times(s, 0, s->E, s->D, s->image, s->E, s->vertical, s->horizontal);
    norm = unit(s, s->E, s->horizontal);
    for (d = 0; d < s->D; d++) {
        for (e = 0; e < s->E; e++) {
            s->shape[d * s->E + e] = s->vertical[d] * s->horizontal[e];
        }
    }
    return norm;
}

/* Singular vectors of ``plane``, from ``inputs``; returns its norm there. */
static double
pair(struct search *s)
{
    double norm = 0, other;
    int i;

    for (i = 0; i < s->polish; i++) {
        times(s, 1, s->S, s->T, s->plane, s->S, s->inputs, s->outputs);
        times(s, 0, s->S, s->T, s->plane, s->S, s->outputs, s->inputs);
        add_up(s, s->inputs, s->S);
        norm = unit(s, s->S, s->inputs);
    }
    other = unit_outputs(s);
    return norm / (s->tiny > other ? s->tiny : other);
}

/* The vectors, one after the other, to or from ``best``. */
static void
keep(struct search *s, int restore)
{
    float *vectors[] = {s->inputs, s->outputs, s->shape, s->vertical, s->horizontal};
    const int counts[] = {s->S, s->T, s->K, s->D, s->E};
    float *place = s->best;
    size_t i;

    for (i = 0; i < 5; place += counts[i], i++) {
        if (restore) {
            copy(vectors[i], place, counts[i]);
        } else {
            copy(place, vectors[i], counts[i]);
        }
    }
}

/* Vectors from the most promising of the spatial patterns ``starts`` (count, K). */
static void
start(struct search *s, const float *starts, Py_ssize_t count)
{
    double weight, best = -1;
    float most;
    Py_ssize_t n;
    int i;

    for (n = 0; n < count; n++) {
        copy(s->image, starts + n * s->K, s->K);
        if (s->separate) {
            copy(s->horizontal, largest(s->image, s->D, s->E, &most), s->E);
            for (i = 0; i < s->polish; i++) {
                pattern(s);
            }
        } else {
            pattern(s);
        }
        take_pattern(s);
        begin(s);
        weight = agreed(s, pair(s));
        if (!(weight <= best)) {
            best = weight;
            keep(s, 0);
        }
    }
    keep(s, 1);
}

/* Finds a component; returns its norm. */
static double
component(struct search *s)
{
    double weight = 0, before = 0;
    int sweep, i;

    start(s, s->team->starts, s->team->starts_count);
    for (sweep = 0; sweep < s->sweeps; sweep++) {
        take_inputs(s);
        for (i = 0; i < s->polish; i++) {
            take_outputs(s);
            pattern(s);
            times(s, 0, s->T, s->K, s->pairs, s->T, s->shape, s->outputs);
        }
        unit_outputs(s);
        take_outputs(s);
        weight = agreed(s, pattern(s));
        if (weight * weight - before <= s->gain * (weight * weight)) {
            break;
        }
        before = weight * weight;
        take_pattern(s);
        pair(s);
    }
    return weight;
}

/* Takes the component off the residual. */
static void
deflate(struct search *s, double weight)
{
    memset(s->plane, 0, (size_t)s->TS * sizeof(float));
    update(s, s->S, s->T, 1, s->inputs, s->outputs, s->plane, s->S);
    update(s, s->TS, s->K, (float)-weight, s->plane, s->shape, s->residual, s->pitch);
}

/* The upper triangle of X' X, Fortran order, of the residual X (TS, K): in pieces of rows, whose
   sums are added up, for the sake of precision. */
static void
gram(struct search *s)
{
    int k, first, i;

    for (k = 0; k < s->K; k++) {
        float *column = s->residual + k * s->pitch;

        memset(s->image, 0, (size_t)s->K * sizeof(float));
        for (first = 0; first < s->TS; first += PIECE) {
            const int count = s->TS - first < PIECE ? s->TS - first : PIECE;
            times(s, 1, count, k + 1, s->residual + first, s->pitch, column + first, s->shape);
            for (i = 0; i <= k; i++) {
                s->image[i] += s->shape[i];
            }
        }
        add_up(s, s->image, k + 1);
        if (s->rank == 0) {
            copy(s->team->gram + (Py_ssize_t)k * s->K, s->image, k + 1);
        }
    }
}

/* What each thread does. */
static void
seek(struct search *s)
{
    double weight;

    if (s->team->gram != NULL) {
        gram(s);
        return;
    }
    weight = component(s);
    deflate(s, weight);
    if (s->rank == 0) {
        s->team->weight = weight;
    }
}
