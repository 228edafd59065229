/* The sampler's vectorised loops over logits, each in a variant for every instruction set that is worth one. */
#ifndef OUTRIDER_VECTOR_H
#define OUTRIDER_VECTOR_H

#include <stdint.h>

#define GOLDEN UINT64_C(0x9E3779B97F4A7C15)
#define BLOCK 512 /* most ids of one call: what it fills stays in the first-level cache */
#define MAX_VARIANTS 3

#if defined(_MSC_VER)
#define INLINE static __forceinline
#else
#define INLINE static inline __attribute__((always_inline))
#endif

/* Everything of SplitMix64's finalizer but its last step, x ^ (x >> 31), which leaves the top 31 bits as they are. */
INLINE uint64_t mix_top(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    return (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
}

/* How ids are weighed: z = logit / temperature, of which `best` is the largest, those below best + lowest alike. */
typedef struct {
    double temperature, best, lowest;
    double buckets_per_unit;
} scale;

typedef struct {
    const char *name;
    /* Flags the ids that may reach the bar; `state` is the counter of the first one. Returns 0 if none may. */
    int32_t (*filter)(const float *logits, uint64_t state, int count, float floor, float slope, float offset,
                      int32_t *flags);
    /* Fills in exp(z - best), within 1e-11 of itself, and the bucket of best - z. */
    void (*weigh)(const float *logits, int count, const scale *by, double *masses, int32_t *buckets);
    /* Returns the sum of exp(logit - best), within 1e-6 of itself; best is the largest. */
    double (*mass)(const float *logits, int count, float best);
} variant;

/* Fills in what this CPU runs, slowest first, and returns how many that are. */
int find_variants(variant found[MAX_VARIANTS]);

#endif
