/* Threads that help in a search.
 *
 * To start a thread and to wait for its end take as long as some products of a small kernel, so that
 * a helper stays for a moment after its work: the next component is sought soon.  Included by
 * _power.c alone.
 */
#if HAVE_TEAM
enum { NONE, TAKEN, GIVEN, IDLE };

/* A place for a helper.  From NONE and from IDLE one caller takes it, who gives it work; only the
   helper itself goes from GIVEN to IDLE and from there to NONE. */
struct helper {
    atomic_int state;
    struct search *work;
};

static struct helper helpers[MOST_THREADS];

static int
change(struct helper *helper, int from, int to)
{
    return atomic_compare_exchange_strong(&helper->state, &from, to);
}

static void *
help(void *argument)
{
    struct helper *own = argument;
    unsigned looks = 0;

    while (looks < LOOKS + PATIENCE || !change(own, IDLE, NONE)) {
        if (atomic_load_explicit(&own->state, memory_order_acquire) == GIVEN) {
            struct search *s = own->work;
            seek(s);
            atomic_store_explicit(&own->state, IDLE, memory_order_release);
            atomic_store_explicit(&s->done, 1, memory_order_release); /* now ``s`` may go */
            looks = 0;
        } else {
            pause_between(looks++);
        }
    }
    return NULL;
}

/* A helper that begins, if one can be started. */
static int
started(struct helper *helper)
{
    pthread_attr_t detached;
    pthread_t thread;
    int failed;

    if (!change(helper, NONE, TAKEN)) {
        return 0;
    }
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    failed = pthread_create(&thread, &detached, help, helper);
    pthread_attr_destroy(&detached);
    if (failed) {
        atomic_store(&helper->state, NONE);
    }
    return !failed;
}

/* Helpers for a team of so many threads, from others[1] on; returns how many threads it has. */
static int
gather(struct helper **others, int threads)
{
    int count = 1, i;

    for (i = 0; i < MOST_THREADS && count < threads; i++) {
        if (change(&helpers[i], IDLE, TAKEN)) {
            others[count++] = &helpers[i];
        }
    }
    for (i = 0; i < MOST_THREADS && count < threads; i++) {
        if (started(&helpers[i])) {
            others[count++] = &helpers[i];
        }
    }
    return count;
}

static void
prepare(struct search *whole)
{
    whole->products = best_products();
    whole->step = 0;
    atomic_init(&whole->shown, 0);
    atomic_init(&whole->done, 0);
}

static void
give(struct helper *helper, struct search *work)
{
    helper->work = work;
    atomic_store_explicit(&helper->state, GIVEN, memory_order_release);
}

static void
await(struct search *s)
{
    unsigned looks = 0;

    while (!atomic_load_explicit(&s->done, memory_order_acquire)) {
        pause_between(looks++);
    }
}

/* In a process that was forked there are no helpers. */
static void
forget(void)
{
    int i;

    for (i = 0; i < MOST_THREADS; i++) {
        atomic_store(&helpers[i].state, NONE);
    }
}

static int
expect_forks(PyObject *Py_UNUSED(module))
{
    if (pthread_atfork(NULL, NULL, forget) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}
#else
struct helper;

static int
gather(struct helper **others, int threads)
{
    (void)others, (void)threads;
    return 1;
}

static void
prepare(struct search *whole)
{
    (void)whole;
}

static void
give(struct helper *helper, struct search *work)
{
    (void)helper, (void)work;
}

static void
await(struct search *s)
{
    (void)s;
}

static int
expect_forks(PyObject *Py_UNUSED(module))
{
    return 0;
}
#endif
