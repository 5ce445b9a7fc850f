/* Sixteen small workloads, timed: prints "@NAME nanoseconds-per-operation" for each. See guest-speed.py.
 *
 * Runs as an ordinary program, or as a guest's /init (process 1), which powers the machine off at its end. Arguments name
 * workloads; none means all. Build: gcc -O2 -static (SSE2 is what x86-64 has at least; nothing more is asked for). */
#define _GNU_SOURCE
#include <emmintrin.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ENOUGH 200000000 /* nanoseconds that a measured run takes at least */
#define never_inline __attribute__((noinline, noclone))

static volatile uint64_t sink;
static const char *self;

static uint64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000ull + at.tv_nsec;
}

static void need(int right, const char *what) {
    if (!right) {
        perror(what);
        exit(1);
    }
}

static void integer_chain(uint64_t count) {
    uint64_t x = count | 1;
    for (uint64_t i = 0; i < count; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        x ^= x >> 29;
        x += i;
        x = x << 7 | x >> 57;
    }
    sink = x;
}

static never_inline uint64_t add_one(uint64_t x) { return x + 1; }
static never_inline uint64_t add_two(uint64_t x) { return x + 2; }
static never_inline uint64_t turn(uint64_t x) { return x ^ 0x55; }
static never_inline uint64_t twice(uint64_t x) { return x * 2; }

static void direct_calls(uint64_t count) {
    uint64_t x = 0;
    for (uint64_t i = 0; i < count; i++)
        x = add_one(x);
    sink = x;
}

static uint64_t (*volatile functions[4])(uint64_t) = {add_one, add_two, turn, twice};

static void indirect_calls(uint64_t count) {
    uint64_t x = 0;
    for (uint64_t i = 0; i < count; i++)
        x = functions[i & 3](x);
    sink = x;
}

#define SIDE 32
static double left[SIDE][SIDE], right[SIDE][SIDE], product[SIDE][SIDE];

static void matrix_product(uint64_t count) {
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++)
            left[i][j] = i + j * 0.5, right[i][j] = i - j * 0.25;
    while (count--)
        for (int i = 0; i < SIDE; i++)
            for (int j = 0; j < SIDE; j += 2) {
                __m128d sum = _mm_setzero_pd();
                for (int k = 0; k < SIDE; k++)
                    sum = _mm_add_pd(sum, _mm_mul_pd(_mm_set1_pd(left[i][k]), _mm_load_pd(&right[k][j])));
                _mm_store_pd(&product[i][j], sum);
            }
    sink = (uint64_t)product[3][5];
}

#define WORDS (1 << 20)
static uint64_t *words; /* 8 MiB */

static void random_loads(uint64_t count) {
    uint64_t x = 88172645463325252ull, sum = 0;
    if (!words) {
        words = malloc(WORDS * 8);
        need(words != NULL, "malloc");
        memset(words, 1, WORDS * 8);
    }
    while (count--) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        sum += words[x % WORDS];
    }
    sink = sum;
}

#define COPIED 65536
static char from[COPIED], to[COPIED];

static void copy(uint64_t count) {
    while (count--) {
        memcpy(to, from, COPIED);
        __asm__ volatile("" ::"r"(to), "r"(from) : "memory");
    }
}

static uint32_t rotate(uint32_t x, int by) { return x >> by | x << (32 - by); }

static void sha256_block(uint32_t state[8], const uint8_t *data) {
    static uint32_t constants[64];
    uint32_t w[64], s[8];
    if (!constants[0]) { /* the fractions of the cube roots of the first primes, FIPS 180-4 §4.2.2 */
        int found = 0;
        for (uint64_t n = 2; found < 64; n++) {
            int prime = 1;
            for (uint64_t d = 2; d * d <= n; d++)
                prime &= n % d != 0;
            if (prime) {
                unsigned __int128 low = 0, high = (unsigned __int128)8 << 32;
                while (high - low > 1) { /* the largest c with c³ ≤ n · 2⁹⁶ */
                    unsigned __int128 middle = (low + high) / 2;
                    if (middle * middle / n * middle <= (unsigned __int128)1 << 96) low = middle; else high = middle;
                }
                constants[found++] = (uint32_t)low;
            }
        }
    }
    for (int i = 0; i < 16; i++)
        w[i] = data[i * 4] << 24 | data[i * 4 + 1] << 16 | data[i * 4 + 2] << 8 | data[i * 4 + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
    }
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t e = s[4], a = s[0];
        uint32_t one = s[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + constants[i] + w[i];
        uint32_t two = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 28);
        s[4] += one;
        s[0] = one + two;
    }
    for (int i = 0; i < 8; i++)
        state[i] += s[i];
}

static void sha256(uint64_t count) {
    static const uint8_t data[64] = {'a', 'b', 'c', 0x80, [63] = 24};
    uint32_t state[8];
    while (count--) {
        uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
        memcpy(state, start, sizeof state);
        sha256_block(state, data);
    }
    need(state[0] == 0xba7816bf && state[7] == 0xf20015ad, "SHA-256 of abc"); /* FIPS 180-2 B.1 */
}

static void get_pid(uint64_t count) {
    while (count--)
        sink = syscall(SYS_getpid);
}

static void get_time(uint64_t count) {
    struct timespec at;
    while (count--)
        clock_gettime(CLOCK_MONOTONIC, &at);
}

static void get_stat(uint64_t count) {
    struct stat found;
    while (count--)
        need(stat(self, &found) == 0, "stat");
}

static void handler(int signal) { sink = signal; }

static void send_signal(uint64_t count) {
    signal(SIGUSR1, handler);
    while (count--)
        raise(SIGUSR1);
}

static void protect(uint64_t count) {
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(page != MAP_FAILED, "mmap");
    while (count--) {
        page[0] = 1;
        need(mprotect(page, 4096, PROT_READ) == 0, "mprotect");
        sink = page[0];
        need(mprotect(page, 4096, PROT_READ | PROT_WRITE) == 0, "mprotect");
    }
    munmap(page, 4096);
}

static void page_faults(uint64_t count) {
    while (count) {
        uint64_t pages = count < 256 ? count : 256;
        char *range = mmap(NULL, 256 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        need(range != MAP_FAILED, "mmap");
        madvise(range, 256 * 4096, MADV_NOHUGEPAGE);
        for (uint64_t i = 0; i < pages; i++)
            range[i * 4096] = 1;
        munmap(range, 256 * 4096);
        count -= pages;
    }
}

static void ping_pong(uint64_t count) {
    int there[2], back[2];
    char byte = 1;
    need(pipe(there) == 0 && pipe(back) == 0, "pipe");
    pid_t child = fork();
    need(child >= 0, "fork");
    if (child == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1)
            if (write(back[1], &byte, 1) != 1)
                break;
        _exit(0);
    }
    close(there[0]);
    while (count--)
        need(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1, "pipe");
    close(there[1]), close(back[0]), close(back[1]);
    waitpid(child, NULL, 0);
}

static void fork_wait(uint64_t count) {
    while (count--) {
        pid_t child = fork();
        need(child >= 0, "fork");
        if (child == 0)
            _exit(0);
        waitpid(child, NULL, 0);
    }
}

static void fork_exec(uint64_t count) {
    while (count--) {
        int status;
        pid_t child = fork();
        need(child >= 0, "fork");
        if (child == 0) {
            execl(self, self, "--exit", NULL);
            _exit(1);
        }
        need(waitpid(child, &status, 0) == child && status == 0, "exec");
    }
}

static const struct {
    const char *name;
    void (*run)(uint64_t);
} workloads[] = {
    {"integer-chain", integer_chain}, {"direct-calls", direct_calls}, {"indirect-calls", indirect_calls},
    {"sse2-matrix", matrix_product}, {"random-loads", random_loads}, {"memcpy-64k", copy}, {"sha256-block", sha256},
    {"getpid", get_pid}, {"clock_gettime", get_time}, {"stat", get_stat}, {"signal", send_signal},
    {"mprotect-pair", protect}, {"page-fault", page_faults}, {"pipe-ping-pong", ping_pong}, {"fork-wait", fork_wait},
    {"fork-exec", fork_exec},
};

static void measure(int which) {
    uint64_t count = 1, taken;
    for (;;) {
        uint64_t start = now();
        workloads[which].run(count);
        taken = now() - start;
        if (taken >= ENOUGH)
            break;
        /* Far from enough: by leaps; near: what should be enough, and at most double. */
        count *= taken < ENOUGH / 32 ? 8 : 2;
    }
    free(words); /* or every fork after it copies its page tables */
    words = NULL;
    printf("@%s %.3f\n", workloads[which].name, (double)taken / count);
}

int main(int argc, char **argv) {
    self = argv[0];
    if (argc > 1 && strcmp(argv[1], "--exit") == 0)
        return 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    uint64_t start = now();
    printf("@start\n");
    for (unsigned i = 0; i < sizeof workloads / sizeof *workloads; i++) {
        int wanted = argc < 2;
        for (int j = 1; j < argc; j++)
            wanted |= strcmp(argv[j], workloads[i].name) == 0;
        if (wanted)
            measure(i);
    }
    printf("@end %.6f\n", (now() - start) / 1e9);
    if (getpid() == 1) {
        sync();
        reboot(RB_POWER_OFF);
        pause();
    }
    return 0;
}
