//! When and where a container's processes run, and which memory they get.

use atoll_spec::{CpuAffinity, MemoryPolicy, Personality, Scheduler};
use atoll_sys::process::Exit;

use crate::support::{Bundle, exec};

#[test]
fn the_scheduling_policy_is_the_configurations() {
    let mut bundle = Bundle::new();
    bundle.process().scheduler = Some(Scheduler {
        policy: "SCHED_BATCH".to_owned(),
        nice: 7,
        ..Scheduler::default()
    });
    // Nice and policy are fields 19 and 41 of proc_pid_stat(5).
    let text = bundle.output_of("busybox cut -d' ' -f19,41 /proc/self/stat");
    assert_eq!(text, "7 3\n");
}

#[test]
fn a_policy_that_can_not_be_is_refused_by_field() {
    let mut bundle = Bundle::new();
    bundle.process().scheduler = Some(Scheduler {
        policy: "SCHED_OTHER".to_owned(),
        nice: 20,
        ..Scheduler::default()
    });
    let error = bundle.create().unwrap_err().to_string();
    assert_eq!(error, "process.scheduler.nice: 20 is not in -20..=19");
    bundle.assert_clean();
}

#[test]
fn later_processes_run_on_the_cpus_named() {
    let mut bundle = Bundle::new();
    bundle.args(&["sleep", "60"]);
    let mut created = bundle.create().unwrap();
    created.init.start().unwrap();
    let mut process = bundle.process().clone();
    let cpus = "grep Cpus_allowed_list /proc/self/status";
    process.exec_cpu_affinity = Some(CpuAffinity {
        initial: "0".to_owned(),
        r#final: "1".to_owned(),
    });
    let outcome = exec(&created.container, &process, cpus).unwrap();
    assert_eq!(outcome.stdout, "Cpus_allowed_list:\t1\n");
    process.exec_cpu_affinity = Some(CpuAffinity {
        initial: "1,x".to_owned(),
        r#final: String::new(),
    });
    let error = exec(&created.container, &process, cpus).unwrap_err();
    assert_eq!(
        error.to_string(),
        "process.execCPUAffinity.initial: \"1,x\" is no list such as 0-2,7"
    );
    created.container.delete(true).unwrap();
}

#[test]
fn memory_policy_and_personality_hold_for_later_processes_too() {
    let mut bundle = Bundle::new();
    bundle.args(&["sleep", "60"]);
    bundle.linux().memory_policy = Some(MemoryPolicy {
        mode: "MPOL_BIND".to_owned(),
        nodes: "0".to_owned(),
        flags: vec!["MPOL_F_STATIC_NODES".to_owned()],
    });
    bundle.linux().personality = Some(Personality {
        domain: "LINUX32".to_owned(),
        flags: Vec::new(),
    });
    let mut created = bundle.create().unwrap();
    created.init.start().unwrap();
    let process = bundle.process().clone();
    let script = "busybox uname -m; grep -c 'bind=static:0' /proc/self/numa_maps; \
                  busybox head -1 /proc/1/numa_maps";
    let outcome = exec(&created.container, &process, script).unwrap();
    assert_eq!(outcome.exit, Exit::Code(0), "{}", outcome.stderr);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[0], "i686");
    assert_ne!(lines[1], "0");
    assert!(lines[2].contains("bind=static:0"), "{}", lines[2]);
    created.container.delete(true).unwrap();
}

#[test]
fn nodes_the_machine_lacks_are_the_kernels_to_refuse() {
    let mut bundle = Bundle::new();
    bundle.linux().memory_policy = Some(MemoryPolicy {
        mode: "MPOL_BIND".to_owned(),
        nodes: "900".to_owned(),
        flags: Vec::new(),
    });
    let error = bundle.create().unwrap_err().to_string();
    assert_eq!(error, "set the memory policy: EINVAL (Invalid argument)");
    bundle.assert_clean();
}
