/* Counts the instructions that one thread of an emulated program executes (a qemu TCG plugin).
 *
 * qemu-aarch64 -plugin instruction_counter.so,out=FILE PROGRAM
 * The program asks for a reading with a system call that fails and does nothing else:
 * setpriority(MARK, number, 0). FILE then gains a line "number instructions-so-far-of-this-thread".
 *
 * The few declarations are those of qemu's <qemu-plugin.h>, which Debian does not ship; they are
 * the part of version 1 of the interface that later versions keep. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
extern void qemu_plugin_register_vcpu_tb_trans_cb(
    qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(
    struct qemu_plugin_tb *, void (*)(unsigned, void *), int flags, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(
    qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                               uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

int qemu_plugin_version = 1;

enum { SETPRIORITY = 140, MARK = 0x656b, THREADS = 4096 };  /* 140: AArch64 Linux */
static uint64_t executed[THREADS];
static FILE *readings;

static void block_executed(unsigned thread, void *instructions) {
    executed[thread % THREADS] += (uintptr_t)instructions;
}

static void block_translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(
        block, block_executed, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void system_call(qemu_plugin_id_t id, unsigned thread, int64_t call, uint64_t which,
                        uint64_t number, uint64_t c, uint64_t d, uint64_t e, uint64_t f,
                        uint64_t g, uint64_t h) {
    (void)id; (void)c; (void)d; (void)e; (void)f; (void)g; (void)h;
    if (call != SETPRIORITY || which != MARK) return;
    fprintf(readings, "%llu %llu\n", (unsigned long long)number,
            (unsigned long long)executed[thread % THREADS]);
    fflush(readings);
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int count, char **options) {
    (void)info;
    for (int i = 0; i < count; i++)
        if (strncmp(options[i], "out=", 4) == 0) readings = fopen(options[i] + 4, "w");
    if (readings == NULL) return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated);
    qemu_plugin_register_vcpu_syscall_cb(id, system_call);
    return 0;
}
