/* Finds the few ids that can win argmax(logit / temperature + noise), without a logarithm per id.
 *
 * An id scores z + G with z = logit / temperature, G = -ln(-ln u) and u made of the hash of (key, id), as
 * docs/sampling.md defines it. With v = 1 - u, v <= -ln u, so an id whose score reaches a known score `bar` satisfies
 *
 *     log2 v <= (z - bar) / ln 2.
 *
 * The left side is bounded from below by the exponent and mantissa bits of v as a float (the chord of log2 between
 * powers of two lies below it), the right side is linear in the logit: one integer hash and one comparison per id, all
 * of it vectorised. The bound only drops ids that cannot win; the caller scores what is left with its own logarithm, so
 * that the choice depends neither on this file nor on the instruction set.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <string.h>

#define GOLDEN UINT64_C(0x9E3779B97F4A7C15)
#define LN2 0.69314718055994530942
#define BLOCK 512 /* ids per pass of the filter: its flags stay in the first-level cache */
#define FIRST_BLOCK 32 /* short, so that `bar` rises before the long blocks are filtered with it */
#define MAX_SURVIVORS 256
#define RELEASE_SIZE 32768 /* ids from which on other Python threads may run meanwhile */

#if defined(_MSC_VER)
#define INLINE static __forceinline
#else
#define INLINE static inline __attribute__((always_inline))
#endif

/* Everything of the 64-bit finalizer but its last step, x ^ (x >> 31), which leaves the top 31 bits as they are. */
INLINE uint64_t mix_top(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    return (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
}

/* Flags the ids of a block that may reach the bar; `state` is the counter of the first one. Returns 0 if none may. */
INLINE int32_t filter(const float *logits, uint64_t state, int count, float floor, float slope, float offset,
                      int32_t *flags) {
    int32_t any = 0;
    for (int i = 0; i < count; i++) {
        float v = (float)(int32_t)(~mix_top(state) >> 33);
        int32_t bits;
        memcpy(&bits, &v, sizeof bits);
        flags[i] = logits[i] - floor >= slope * (float)bits + offset;
        any |= flags[i];
        state += GOLDEN;
    }
    return any;
}

typedef int32_t (*filter_fn)(const float *, uint64_t, int, float, float, float, int32_t *);

static int32_t filter_portable(const float *logits, uint64_t state, int count, float floor, float slope, float offset,
                               int32_t *flags) {
    return filter(logits, state, count, floor, slope, offset, flags);
}

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_X86_VARIANTS
#if defined(__clang__)
#define TARGET_AVX512 "avx512f,avx512dq,avx512vl,avx512bw"
#else
#define TARGET_AVX512 "avx512f,avx512dq,avx512vl,avx512bw,prefer-vector-width=512"
#endif

__attribute__((target("avx2"))) static int32_t filter_avx2(const float *logits, uint64_t state, int count, float floor,
                                                           float slope, float offset, int32_t *flags) {
    return filter(logits, state, count, floor, slope, offset, flags);
}

__attribute__((target(TARGET_AVX512))) static int32_t filter_avx512(const float *logits, uint64_t state, int count,
                                                                    float floor, float slope, float offset,
                                                                    int32_t *flags) {
    return filter(logits, state, count, floor, slope, offset, flags);
}
#endif

typedef struct {
    const char *name;
    filter_fn run;
} variant;

static variant variants[3]; /* what this CPU runs, slowest first; filled when the module is loaded */
static int num_variants;
static filter_fn selected;

static void find_variants(void) {
    num_variants = 0;
    variants[num_variants++] = (variant){"portable", filter_portable};
#ifdef HAS_X86_VARIANTS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) variants[num_variants++] = (variant){"avx2", filter_avx2};
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
        variants[num_variants++] = (variant){"avx512", filter_avx512};
#endif
    selected = variants[num_variants - 1].run;
}

static double score(double logit, double temperature, uint64_t key, int64_t id) {
    uint64_t x = mix_top(key + (uint64_t)(id + 1) * GOLDEN);
    double u = ((double)((x ^ (x >> 31)) >> 12) + 0.5) * 0x1p-52;
    return logit / temperature - log(-log(u));
}

typedef struct {
    int num_best; /* 1: survivors can be the best, 2: the best or the second best */
    double best, second;
    int count;
    int32_t ids[MAX_SURVIVORS];
    double scores[MAX_SURVIVORS];
} search;

/* Scores below this cannot matter. The slack is far above the rounding of any logarithm and of the sum. */
static double bar_of(const search *s) {
    double bar = s->num_best == 1 ? s->best : s->second;
    return bar - (1e-9 + 1e-12 * fabs(bar));
}

static void prune(search *s) {
    double bar = bar_of(s);
    int kept = 0;
    for (int i = 0; i < s->count; i++) {
        if (s->scores[i] >= bar) {
            s->ids[kept] = s->ids[i];
            s->scores[kept++] = s->scores[i];
        }
    }
    s->count = kept;
}

/* 0, or -1 where more ids tie than there is room for. */
static int offer(search *s, int32_t id, double value) {
    if (!(value >= bar_of(s))) return 0;
    if (value > s->best) {
        s->second = s->best;
        s->best = value;
    } else if (value > s->second) {
        s->second = value;
    }
    if (s->count == MAX_SURVIVORS) prune(s);
    if (s->count == MAX_SURVIVORS) return -1;
    s->ids[s->count] = id;
    s->scores[s->count++] = value;
    return 0;
}

static int scan(search *s, const float *logits, int32_t size, double temperature, uint64_t key, int32_t start) {
    int32_t flags[BLOCK];
    const float slope = (float)(temperature * LN2 * 0x1p-23);
    /* 127 is the float's exponent bias, 31 the bits of v that are looked at, 0.01 covers every rounding in `filter`. */
    const float offset = (float)(-temperature * LN2 * (127 + 31 + 0.01));
    s->best = s->second = -INFINITY;
    s->count = 0;
    if (offer(s, start, score(logits[start], temperature, key, start))) return -1;
    for (int32_t first = 0; first < size;) {
        int count = first == 0 ? FIRST_BLOCK : BLOCK;
        if (count > size - first) count = size - first;
        double bar = temperature * bar_of(s);
        float floor = (float)(bar - fabs(bar) * 0x1p-22);
        if (selected(logits + first, key + (uint64_t)(first + 1) * GOLDEN, count, floor, slope, offset, flags)) {
            for (int i = 0; i < count; i++) {
                int32_t id = first + i;
                if (flags[i] && id != start && offer(s, id, score(logits[id], temperature, key, id))) return -1;
            }
        }
        first += count;
    }
    prune(s);
    return 0;
}

PyDoc_STRVAR(survivors_doc,
             "survivors(logits, temperature, key, start, num_best) -> tuple[int, ...] | None\n\n"
             "Ids of a float32 row that may have one of the num_best (1 or 2) highest perturbed scores. start is an\n"
             "id of finite, preferably the highest logit. None where too many scores tie.");

static PyObject *survivors(PyObject *self, PyObject *const *args, Py_ssize_t num_args) {
    (void)self;
    if (num_args != 5) {
        PyErr_SetString(PyExc_TypeError, "survivors takes 5 arguments");
        return NULL;
    }
    double temperature = PyFloat_AsDouble(args[1]);
    if (temperature == -1.0 && PyErr_Occurred()) return NULL;
    uint64_t key = PyLong_AsUnsignedLongLong(args[2]);
    if (key == UINT64_MAX && PyErr_Occurred()) return NULL;
    long start = PyLong_AsLong(args[3]);
    if (start == -1 && PyErr_Occurred()) return NULL;
    long num_best = PyLong_AsLong(args[4]);
    if (num_best == -1 && PyErr_Occurred()) return NULL;

    Py_buffer view;
    if (PyObject_GetBuffer(args[0], &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) return NULL;
    Py_ssize_t size = view.len / (Py_ssize_t)sizeof(float);
    int is_valid = view.ndim == 1 && view.itemsize == sizeof(float) && view.format && strcmp(view.format, "f") == 0 &&
                   size <= INT32_MAX - BLOCK && start >= 0 && start < size && (num_best == 1 || num_best == 2) &&
                   temperature > 0;
    if (!is_valid) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_ValueError,
                        "survivors needs one contiguous row of native float32 logits, a positive temperature, a start "
                        "inside the row and num_best 1 or 2");
        return NULL;
    }
    search s;
    s.num_best = (int)num_best;
    PyThreadState *released = size >= RELEASE_SIZE ? PyEval_SaveThread() : NULL;
    int status = scan(&s, view.buf, (int32_t)size, temperature, key, (int32_t)start);
    if (released) PyEval_RestoreThread(released);
    PyBuffer_Release(&view);
    if (status) Py_RETURN_NONE;
    PyObject *ids = PyTuple_New(s.count);
    if (!ids) return NULL;
    for (int i = 0; i < s.count; i++) {
        PyObject *id = PyLong_FromLong(s.ids[i]);
        if (!id) {
            Py_DECREF(ids);
            return NULL;
        }
        PyTuple_SET_ITEM(ids, i, id);
    }
    return ids;
}

PyDoc_STRVAR(available_doc,
             "available() -> tuple[str, ...]\n\nThe filter's variants that this CPU runs, fastest last.");

static PyObject *available(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    PyObject *names = PyTuple_New(num_variants);
    if (!names) return NULL;
    for (int i = 0; i < num_variants; i++) {
        PyObject *name = PyUnicode_FromString(variants[i].name);
        if (!name) {
            Py_DECREF(names);
            return NULL;
        }
        PyTuple_SET_ITEM(names, i, name);
    }
    return names;
}

PyDoc_STRVAR(select_doc, "select(name) -> None\n\nUses one variant from here on, for tests and measurements.");

static PyObject *select_variant(PyObject *self, PyObject *name) {
    (void)self;
    const char *wanted = PyUnicode_AsUTF8(name);
    if (!wanted) return NULL;
    for (int i = 0; i < num_variants; i++) {
        if (strcmp(wanted, variants[i].name) == 0) {
            selected = variants[i].run;
            Py_RETURN_NONE;
        }
    }
    return PyErr_Format(PyExc_ValueError, "this CPU does not run the variant %R", name);
}

static PyMethodDef methods[] = {
    {"survivors", (PyCFunction)(void (*)(void))survivors, METH_FASTCALL, survivors_doc},
    {"available", available, METH_NOARGS, available_doc},
    {"select", select_variant, METH_O, select_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_kernel",
    .m_doc = "The vectorised filter of the sampler; survivors.py has what stands in where it was not built.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__kernel(void) {
    find_variants();
    return PyModule_Create(&module);
}
