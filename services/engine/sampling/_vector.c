#include "_vector.h"

#include <string.h>

#if defined(__GNUC__) && !defined(__clang__)
/* Nobody looks at floating-point exceptions. For their sake gcc would branch where a maximum does. */
#pragma GCC optimize("no-trapping-math")
#endif

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

/* exp(x) for x from -700 to 0: a Taylor polynomial between -ln 2 / 2 and ln 2 / 2, times a power of two. */
INLINE double near_exp(double x) {
    const double shift = 0x1.8p52; /* leaves x / ln 2 as a whole number in the last bits of the sum */
    double sum = x * 1.4426950408889634 + shift;
    double whole = sum - shift;
    double r = (x - whole * 6.93147180369123816490e-01) - whole * 1.90821492927058770002e-10; /* ln 2 in two parts */
    double p = 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    uint64_t exponent, bits;
    memcpy(&exponent, &sum, sizeof exponent);
    memcpy(&bits, &p, sizeof bits);
    bits += exponent << 52;
    memcpy(&p, &bits, sizeof p);
    return p;
}

INLINE void weigh(const float *logits, int count, const scale *by, double *masses, int32_t *buckets) {
    const double temperature = by->temperature, best = by->best, lowest = by->lowest, per_unit = by->buckets_per_unit;
    for (int i = 0; i < count; i++) {
        double x = logits[i] / temperature - best;
        x = x > lowest ? x : lowest; /* also of a NaN */
        x = x < 0 ? x : 0;
        masses[i] = near_exp(x);
        buckets[i] = (int32_t)(-x * per_unit);
    }
}

/* exp(x) for x from -87 to 0, in the same way, within 2e-7 of itself. */
INLINE float near_expf(float x) {
    const float shift = 0x1.8p23f;
    float sum = x * 1.44269504f + shift;
    float whole = sum - shift;
    float r = (x - whole * 6.93359375e-01f) - whole * -2.12194440e-04f;
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t exponent, bits;
    memcpy(&exponent, &sum, sizeof exponent);
    memcpy(&bits, &p, sizeof bits);
    bits += exponent << 23;
    memcpy(&p, &bits, sizeof p);
    return p;
}

#define LANES 32 /* sums side by side: a compiler may not make several of one by itself */

INLINE double mass(const float *logits, int count, float best) {
    float masses[BLOCK], sums[LANES] = {0};
    for (int i = 0; i < count; i++) {
        float x = logits[i] - best;
        x = x > -87 ? x : -87; /* also of a NaN */
        masses[i] = near_expf(x < 0 ? x : 0);
    }
    for (int i = count; i % LANES; i++) masses[i] = 0;
    for (int i = 0; i < count; i += LANES)
        for (int lane = 0; lane < LANES; lane++) sums[lane] += masses[i + lane];
    double total = 0;
    for (int lane = 0; lane < LANES; lane++) total += sums[lane];
    return total;
}

#define VARIANT(NAME, TARGET)                                                                                     \
    TARGET static int32_t filter_##NAME(const float *logits, uint64_t state, int count, float floor, float slope, \
                                        float offset, int32_t *flags) {                                           \
        return filter(logits, state, count, floor, slope, offset, flags);                                         \
    }                                                                                                             \
    TARGET static void weigh_##NAME(const float *logits, int count, const scale *by, double *masses,              \
                                    int32_t *buckets) {                                                           \
        weigh(logits, count, by, masses, buckets);                                                                \
    }                                                                                                             \
    TARGET static double mass_##NAME(const float *logits, int count, float best) { return mass(logits, count, best); }

VARIANT(portable, )

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_X86_VARIANTS
#if defined(__clang__)
#define TARGET_AVX512 "avx512f,avx512dq,avx512vl,avx512bw"
#else
#define TARGET_AVX512 "avx512f,avx512dq,avx512vl,avx512bw,prefer-vector-width=512"
#endif
VARIANT(avx2, __attribute__((target("avx2,fma"))))
VARIANT(avx512, __attribute__((target(TARGET_AVX512))))
#endif

int find_variants(variant found[MAX_VARIANTS]) {
    int count = 0;
    found[count++] = (variant){"portable", filter_portable, weigh_portable, mass_portable};
#ifdef HAS_X86_VARIANTS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        found[count++] = (variant){"avx2", filter_avx2, weigh_avx2, mass_avx2};
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
        found[count++] = (variant){"avx512", filter_avx512, weigh_avx512, mass_avx512};
#endif
    return count;
}
