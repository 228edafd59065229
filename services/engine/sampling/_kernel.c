/* The compiled part of the sampler: three passes over a row of logits.
 *
 * `survivors` finds the few ids that can win argmax(z + noise), z = logit / temperature, without a logarithm per id.
 * An id scores z + G with G = -ln(-ln u) and u made of the hash of (key, id), as docs/sampling.md defines it. With
 * v = 1 - u, v <= -ln u, so an id whose score reaches a known score `bar` satisfies
 *
 *     log2 v <= (z - bar) / ln 2.
 *
 * The left side is bounded from below by the exponent and mantissa bits of v as a float (the chord of log2 between
 * powers of two lies below it), the right side is linear in the logit: one integer hash and one comparison per id, all
 * of it vectorised. The bound only drops ids that cannot win; the caller scores what is left with its own logarithm, so
 * that the choice depends neither on this file nor on the instruction set.
 *
 * `weigh` adds up exp(z) by buckets of z, from which the caller finds the edge of a nucleus, within a known error.
 *
 * `mass` adds up exp(logit), of which probabilities are made that are told and decide nothing: floats will do.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "_vector.h"

#define LN2 0.69314718055994530942
#define FIRST_BLOCK 32 /* short, so that `bar` rises before the long blocks are filtered with it */
#define MAX_SURVIVORS 256
#define RELEASE_SIZE 32768 /* ids from which on other Python threads may run meanwhile */

static variant variants[MAX_VARIANTS]; /* filled when the module is loaded */
static int num_variants;
static const variant *selected;

static double gumbel(uint64_t key, int64_t id) {
    uint64_t x = mix_top(key + (uint64_t)(id + 1) * GOLDEN);
    double u = ((double)((x ^ (x >> 31)) >> 12) + 0.5) * 0x1p-52;
    return -log(-log(u));
}

typedef struct {
    double temperature;
    uint64_t key;
    double edge; /* candidates have a z above it, or are no id beyond last_tie with that z */
    int32_t last_tie;
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
static int offer(search *s, int32_t id, double logit) {
    double z = logit / s->temperature;
    if (!(z > s->edge || (z == s->edge && id <= s->last_tie))) return 0;
    double value = z + gumbel(s->key, id);
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

static int scan(search *s, const float *logits, int32_t size, int32_t start) {
    const double temperature = s->temperature;
    int32_t flags[BLOCK];
    const float slope = (float)(temperature * LN2 * 0x1p-23);
    /* 127 is the float's exponent bias, 31 the bits of v that are looked at, 0.01 covers every rounding in `filter`. */
    const float offset = (float)(-temperature * LN2 * (127 + 31 + 0.01));
    s->best = s->second = -INFINITY;
    s->count = 0;
    if (offer(s, start, logits[start])) return -1;
    for (int32_t first = 0; first < size;) {
        int count = first == 0 ? FIRST_BLOCK : BLOCK;
        if (count > size - first) count = size - first;
        double bar = temperature * bar_of(s);
        float floor = (float)(bar - fabs(bar) * 0x1p-22);
        uint64_t state = s->key + (uint64_t)(first + 1) * GOLDEN;
        if (selected->filter(logits + first, state, count, floor, slope, offset, flags)) {
            for (int i = 0; i < count; i++) {
                int32_t id = first + i;
                if (flags[i] && id != start && offer(s, id, logits[id])) return -1;
            }
        }
        first += count;
    }
    prune(s);
    return 0;
}

/* Fills in a view of one contiguous row of native float32 numbers; 0 and an exception where `object` is none. */
static int get_row(PyObject *object, Py_buffer *view) {
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) return 0;
    if (view->ndim == 1 && view->itemsize == sizeof(float) && view->format && strcmp(view->format, "f") == 0 &&
        view->shape[0] <= INT32_MAX - BLOCK)
        return 1;
    PyBuffer_Release(view);
    PyErr_SetString(PyExc_ValueError, "logits must be one contiguous row of native float32 numbers");
    return 0;
}

PyDoc_STRVAR(survivors_doc,
             "survivors(logits, temperature, key, start, num_best, edge, last_tie) -> tuple[int, ...] | None\n\n"
             "Ids of a float32 row that may have one of the num_best (1 or 2) highest perturbed scores among those\n"
             "with a z above edge, or equal to it and an id up to last_tie. start is one of them, preferably that of\n"
             "the highest logit. None where too many scores tie.");

static PyObject *survivors(PyObject *self, PyObject *const *args, Py_ssize_t num_args) {
    (void)self;
    if (num_args != 7) {
        PyErr_SetString(PyExc_TypeError, "survivors takes 7 arguments");
        return NULL;
    }
    search s;
    s.temperature = PyFloat_AsDouble(args[1]);
    s.key = PyLong_AsUnsignedLongLong(args[2]);
    long start = PyLong_AsLong(args[3]);
    long num_best = PyLong_AsLong(args[4]);
    s.edge = PyFloat_AsDouble(args[5]);
    long last_tie = PyLong_AsLong(args[6]);
    if (PyErr_Occurred()) return NULL;

    Py_buffer view;
    if (!get_row(args[0], &view)) return NULL;
    Py_ssize_t size = view.shape[0];
    if (!(start >= 0 && start < size && (num_best == 1 || num_best == 2) && s.temperature > 0)) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_ValueError,
                        "survivors needs a positive temperature, a start inside the row and num_best 1 or 2");
        return NULL;
    }
    s.num_best = (int)num_best;
    s.last_tie = (int32_t)(last_tie < INT32_MAX ? last_tie : INT32_MAX);
    PyThreadState *released = size >= RELEASE_SIZE ? PyEval_SaveThread() : NULL;
    int status = scan(&s, view.buf, (int32_t)size, (int32_t)start);
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

static void add_up(const float *logits, Py_ssize_t size, const scale *by, double *sums, uint16_t *buckets) {
    double masses[BLOCK];
    int32_t indices[BLOCK];
    for (Py_ssize_t first = 0; first < size; first += BLOCK) {
        int count = (int)(size - first < BLOCK ? size - first : BLOCK);
        selected->weigh(logits + first, count, by, masses, indices);
        for (int i = 0; i < count; i++) {
            sums[indices[i]] += masses[i];
            buckets[first + i] = (uint16_t)indices[i];
        }
    }
}

PyDoc_STRVAR(weigh_doc,
             "weigh(logits, temperature, best, lowest, buckets_per_unit, sums, buckets) -> None\n\n"
             "Adds exp(z - best) of every id of a float32 row to a float64 sum, and fills in whose: the integer part\n"
             "of (best - z) * buckets_per_unit, a uint16. best is the largest z; what lies below best + lowest\n"
             "counts as if it lay there. Each term is within 1e-11 of itself.");

static PyObject *weigh(PyObject *self, PyObject *const *args, Py_ssize_t num_args) {
    (void)self;
    if (num_args != 7) {
        PyErr_SetString(PyExc_TypeError, "weigh takes 7 arguments");
        return NULL;
    }
    scale by = {PyFloat_AsDouble(args[1]), PyFloat_AsDouble(args[2]), PyFloat_AsDouble(args[3]),
                PyFloat_AsDouble(args[4])};
    if (PyErr_Occurred()) return NULL;
    PyObject *result = NULL;
    Py_buffer row, sums, buckets;
    if (!get_row(args[0], &row)) return NULL;
    if (PyObject_GetBuffer(args[5], &sums, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) goto release_row;
    if (PyObject_GetBuffer(args[6], &buckets, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) goto release_sums;
    double num_buckets = (double)(sums.len / (Py_ssize_t)sizeof(double));
    if (!(by.temperature > 0 && by.lowest >= -700 && by.lowest <= 0 && by.buckets_per_unit > 0 &&
          -by.lowest * by.buckets_per_unit < num_buckets && num_buckets <= UINT16_MAX &&
          buckets.len == row.shape[0] * (Py_ssize_t)sizeof(uint16_t))) {
        PyErr_SetString(PyExc_ValueError,
                        "weigh needs a positive temperature, a lowest distance of at most 700 below the best, a sum "
                        "for every bucket down to it and a bucket for every id");
    } else {
        PyThreadState *released = row.shape[0] >= RELEASE_SIZE ? PyEval_SaveThread() : NULL;
        add_up(row.buf, row.shape[0], &by, sums.buf, buckets.buf);
        if (released) PyEval_RestoreThread(released);
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&buckets);
release_sums:
    PyBuffer_Release(&sums);
release_row:
    PyBuffer_Release(&row);
    return result;
}

PyDoc_STRVAR(mass_doc,
             "mass(logits, best) -> float\n\n"
             "The sum of exp(logit - best) over a float32 row, within 1e-6 of itself. best is the largest logit; what\n"
             "lies more than 87 below it counts as if it lay there.");

static PyObject *mass(PyObject *self, PyObject *const *args, Py_ssize_t num_args) {
    (void)self;
    if (num_args != 2) {
        PyErr_SetString(PyExc_TypeError, "mass takes 2 arguments");
        return NULL;
    }
    float best = (float)PyFloat_AsDouble(args[1]);
    Py_buffer row;
    if (PyErr_Occurred() || !get_row(args[0], &row)) return NULL;
    const float *logits = row.buf;
    double total = 0;
    PyThreadState *released = row.shape[0] >= RELEASE_SIZE ? PyEval_SaveThread() : NULL;
    for (Py_ssize_t first = 0; first < row.shape[0]; first += BLOCK) {
        Py_ssize_t left = row.shape[0] - first;
        total += selected->mass(logits + first, (int)(left < BLOCK ? left : BLOCK), best);
    }
    if (released) PyEval_RestoreThread(released);
    PyBuffer_Release(&row);
    return PyFloat_FromDouble(total);
}

PyDoc_STRVAR(available_doc,
             "available() -> tuple[str, ...]\n\nThe variants that this CPU runs, fastest last.");

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
            selected = &variants[i];
            Py_RETURN_NONE;
        }
    }
    return PyErr_Format(PyExc_ValueError, "this CPU does not run the variant %R", name);
}

static PyMethodDef methods[] = {
    {"survivors", (PyCFunction)(void (*)(void))survivors, METH_FASTCALL, survivors_doc},
    {"weigh", (PyCFunction)(void (*)(void))weigh, METH_FASTCALL, weigh_doc},
    {"mass", (PyCFunction)(void (*)(void))mass, METH_FASTCALL, mass_doc},
    {"available", available, METH_NOARGS, available_doc},
    {"select", select_variant, METH_O, select_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_kernel",
    .m_doc = "The sampler's passes over a row; survivors.py and nucleus.py have what stands in where it was not built.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__kernel(void) {
    num_variants = find_variants(variants);
    selected = &variants[num_variants - 1];
    return PyModule_Create(&module);
}
