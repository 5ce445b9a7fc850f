//! Tests: a small BPF machine against an evaluator that reads the profile rule by rule.

use proptest::prelude::*;

use crate::compile::X32_BIT;
use crate::tree::{AND, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, LOAD, RETURN};
use crate::*;

const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;

/// A call as the kernel shows it to a filter.
#[derive(Debug, Clone, Copy)]
struct Call {
    audit: u32,
    number: u32,
    args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.audit,
            _ => {
                let at = usize::try_from((offset - 16) / 8).unwrap();
                let value = self.args[at];
                let half = if offset.is_multiple_of(8) {
                    value
                } else {
                    value >> 32
                };
                u32::try_from(half & 0xffff_ffff).unwrap()
            }
        }
    }
}

/// Runs the program; also gives the number of steps.
fn run(program: &Program, call: &Call) -> (u32, usize) {
    let (mut at, mut accumulator, mut steps) = (0usize, 0u32, 0usize);
    loop {
        let raw = program.instructions()[at];
        let code = u16::from_ne_bytes([raw[0], raw[1]]);
        let constant = u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]);
        at += 1;
        steps += 1;
        let mut jump = |condition| at += usize::from(if condition { raw[2] } else { raw[3] });
        match code {
            LOAD => accumulator = call.word(constant),
            AND => accumulator &= constant,
            JUMP => at += usize::try_from(constant).unwrap(),
            JUMP_EQUAL => jump(accumulator == constant),
            JUMP_GREATER => jump(accumulator > constant),
            JUMP_GREATER_EQUAL => jump(accumulator >= constant),
            RETURN => return (constant, steps),
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn holds(arg: &ArgRule, args: &[u64; 6]) -> bool {
    let value = args[usize::try_from(arg.index).unwrap()];
    match arg.op {
        Operator::NotEqual => value != arg.value,
        Operator::Less => value < arg.value,
        Operator::LessOrEqual => value <= arg.value,
        Operator::Equal => value == arg.value,
        Operator::GreaterOrEqual => value >= arg.value,
        Operator::Greater => value > arg.value,
        Operator::MaskedEqual => value & arg.value == arg.value_two,
    }
}

/// The documented meaning of a profile, without any table or tree.
fn naive(profile: &Profile, call: &Call) -> u32 {
    let has = |arch| profile.architectures.contains(&arch);
    let default = profile
        .default_action
        .value(profile.default_errno_ret.unwrap_or(1));
    let arch = match (call.audit, call.number) {
        (AUDIT_X86_64, number) if number < X32_BIT => Arch::X86_64,
        (AUDIT_X86_64, _) if has(Arch::X32) => Arch::X32,
        (AUDIT_X86_64, u32::MAX) => return default,
        (AUDIT_I386, _) if has(Arch::X86) => Arch::X86,
        _ => return 0,
    };
    if call.number == u32::MAX {
        return default;
    }
    let speaks_of = |rule: &&SyscallRule| {
        rule.names
            .iter()
            .any(|name| syscall_number(arch, name) == Some(call.number))
    };
    let value = |rule: &SyscallRule| rule.action.value(rule.errno_ret.unwrap_or(1));
    let matching: Vec<&SyscallRule> = profile.syscalls.iter().filter(speaks_of).collect();
    if let Some(rule) = matching.iter().find(|rule| rule.args.is_empty()) {
        return value(rule);
    }
    for rule in matching {
        let twice =
            (0..6).any(|index| rule.args.iter().filter(|arg| arg.index == index).count() > 1);
        let mut verdicts = rule.args.iter().map(|arg| holds(arg, &call.args));
        if if twice {
            verdicts.any(|held| held)
        } else {
            verdicts.all(|held| held)
        } {
            return value(rule);
        }
    }
    let refuses = !matches!(
        profile.default_action,
        Action::Allow | Action::Log | Action::Trace | Action::Notify
    );
    let largest = profile
        .syscalls
        .iter()
        .flat_map(|rule| &rule.names)
        .filter_map(|name| syscall_number(arch, name))
        .max();
    match largest {
        Some(largest) if refuses && call.number > largest => 0x0005_0000 | 38,
        _ => default,
    }
}

const NAMES: [&str; 9] = [
    "read",
    "write",
    "clone",
    "personality",
    "socket",
    "socketcall",
    "execve",
    "uselib",
    "no_such_call",
];

fn any_value() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..4u64,
        Just(0xffff_ffff),
        Just(0x1_0000_0000),
        Just(0x1_0000_0002),
        Just(u64::MAX),
        any::<u64>(),
    ]
}

fn any_arg() -> impl Strategy<Value = ArgRule> {
    let operator = prop::sample::select(vec![
        Operator::NotEqual,
        Operator::Less,
        Operator::LessOrEqual,
        Operator::Equal,
        Operator::GreaterOrEqual,
        Operator::Greater,
        Operator::MaskedEqual,
    ]);
    (0..3u32, any_value(), any_value(), operator).prop_map(|(index, value, two, op)| ArgRule {
        index,
        value,
        value_two: if op == Operator::MaskedEqual {
            two & value
        } else {
            0
        },
        op,
    })
}

fn any_action() -> impl Strategy<Value = Action> {
    prop::sample::select(vec![
        Action::Allow,
        Action::Errno,
        Action::Kill,
        Action::KillProcess,
        Action::Trap,
        Action::Log,
        Action::Trace,
    ])
}

fn any_rule() -> impl Strategy<Value = SyscallRule> {
    (
        prop::collection::vec(prop::sample::select(NAMES.to_vec()), 1..4),
        any_action(),
        prop::option::of(0..4096u32),
        prop::collection::vec(any_arg(), 0..4),
    )
        .prop_map(|(names, action, errno_ret, args)| SyscallRule {
            names: names.into_iter().map(str::to_owned).collect(),
            action,
            errno_ret,
            args,
        })
}

fn any_profile() -> impl Strategy<Value = Profile> {
    let architectures = prop::sample::subsequence(
        vec![Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64],
        0..=4,
    );
    (
        any_action(),
        prop::option::of(0..200u32),
        architectures,
        prop::collection::vec(any_rule(), 0..8),
    )
        .prop_map(
            |(default_action, default_errno_ret, architectures, syscalls)| Profile {
                default_action,
                default_errno_ret,
                architectures,
                flags: Vec::new(),
                listener_path: None,
                listener_metadata: None,
                syscalls,
            },
        )
}

fn any_call() -> impl Strategy<Value = Call> {
    let named: Vec<(u32, u32)> = NAMES
        .iter()
        .flat_map(|name| {
            [
                (Arch::X86_64, AUDIT_X86_64),
                (Arch::X32, AUDIT_X86_64),
                (Arch::X86, AUDIT_I386),
            ]
            .into_iter()
            .filter_map(move |(arch, audit)| Some((audit, syscall_number(arch, name)?)))
        })
        .collect();
    let free = (
        prop::sample::select(vec![AUDIT_X86_64, AUDIT_I386, 0xc000_00b7]),
        prop_oneof![
            0..520u32,
            (0..560u32).prop_map(|number| number | X32_BIT),
            Just(u32::MAX),
        ],
    );
    (
        prop_oneof![3 => prop::sample::select(named), 1 => free],
        [
            any_value(),
            any_value(),
            any_value(),
            any_value(),
            any_value(),
            any_value(),
        ],
    )
        .prop_map(|((audit, number), args)| Call {
            audit,
            number,
            args,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn program_decides_as_the_profile_says(
        profile in any_profile(),
        calls in prop::collection::vec(any_call(), 1..20),
    ) {
        let program = compile(&profile, Arch::X86_64).unwrap();
        for call in &calls {
            prop_assert_eq!(run(&program, call).0, naive(&profile, call), "{:?}", call);
        }
    }

    #[test]
    fn default_profile_decides_as_it_says(
        calls in prop::collection::vec(any_call(), 1..20),
        admin in any::<bool>(),
    ) {
        let caps: &[&str] = if admin { &["CAP_SYS_ADMIN"] } else { &["CAP_CHOWN"] };
        let profile = docker_default(caps, (6, 1));
        let program = compile(&profile, Arch::X86_64).unwrap();
        for call in &calls {
            prop_assert_eq!(run(&program, call).0, naive(&profile, call), "{:?}", call);
        }
    }
}

const DOCKER_CAPS: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

fn verdict(program: &Program, name: &str, args: &[u64]) -> u32 {
    let mut call = Call {
        audit: AUDIT_X86_64,
        number: syscall_number(Arch::X86_64, name).unwrap(),
        args: [0; 6],
    };
    call.args[..args.len()].copy_from_slice(args);
    run(program, &call).0
}

#[test]
fn docker_default_is_the_published_set() {
    let profile = docker_default(&DOCKER_CAPS, (6, 1));
    let mut names = profile.syscalls[0].names.clone();
    assert!(names.is_sorted());
    assert_eq!(names.len(), 361);
    // FNV-1a of the sorted names of the first rule in moby/profiles at cd3bed8.
    names.sort();
    let hash = names
        .join("\n")
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    assert_eq!(hash, 0x8a06_0cdc_79d9_e748);
}

#[test]
fn docker_default_allows_and_refuses_what_docker_does() {
    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;
    let program = compile(&docker_default(&DOCKER_CAPS, (6, 1)), Arch::X86_64).unwrap();
    let check = |name: &str, args: &[u64], wanted: u32| {
        assert_eq!(verdict(&program, name, args), wanted, "{name} {args:?}");
    };
    for name in [
        "read",
        "execve",
        "chroot",
        "ptrace",
        "arch_prctl",
        "seccomp",
    ] {
        check(name, &[], ALLOW);
    }
    for name in [
        "mount",
        "unshare",
        "setns",
        "bpf",
        "keyctl",
        "add_key",
        "kexec_load",
        "io_uring_setup",
        "userfaultfd",
        "reboot",
        "swapon",
        "pivot_root",
        "open_by_handle_at",
    ] {
        check(name, &[], EPERM);
    }
    check("clone", &[0x0001_1200], ALLOW);
    check("clone", &[0x1000_0000], EPERM); // CLONE_NEWUSER
    check("clone3", &[], ENOSYS);
    check("file_setattr", &[], ENOSYS); // newer than the profile
    check("socket", &[2], ALLOW);
    check("socket", &[38], EPERM); // AF_ALG
    check("socket", &[40], EPERM); // AF_VSOCK
    check("socket", &[39], ALLOW);
    check("socket", &[41], ALLOW);
    check("personality", &[0xffff_ffff], ALLOW);
    check("personality", &[0x0040_0000], EPERM); // ADDR_NO_RANDOMIZE

    let admin = compile(&docker_default(&["CAP_SYS_ADMIN"], (6, 1)), Arch::X86_64).unwrap();
    for name in ["mount", "clone3", "unshare", "bpf"] {
        assert_eq!(verdict(&admin, name, &[]), ALLOW, "{name}");
    }
    let old = compile(&docker_default(&[], (4, 4)), Arch::X86_64).unwrap();
    assert_eq!(verdict(&old, "ptrace", &[]), EPERM);
}

#[test]
fn the_default_program_is_short() {
    let program = compile(&docker_default(&DOCKER_CAPS, (6, 1)), Arch::X86_64).unwrap();
    assert!(
        program.instructions().len() < 450,
        "{}",
        program.instructions().len()
    );
    let worst = (0..480)
        .map(|number| {
            let call = Call {
                audit: AUDIT_X86_64,
                number,
                args: [0; 6],
            };
            run(&program, &call).1
        })
        .max();
    assert!(worst < Some(24), "{worst:?}");
}

#[test]
fn profiles_that_contradict_themselves_are_refused() {
    let mut profile = docker_default(&[], (6, 1));
    profile.syscalls[0].action = Action::Notify;
    assert_eq!(compile(&profile, Arch::X86_64), Err(Error::Notify));
    profile.listener_path = Some("/run/agent".into());
    assert!(compile(&profile, Arch::X86_64).unwrap().notifies());
    profile.syscalls[0].errno_ret = Some(5000);
    assert!(matches!(
        compile(&profile, Arch::X86_64),
        Err(Error::Errno { errno: 5000, .. })
    ));
    assert!(matches!(
        compile(&profile, Arch::Aarch64),
        Err(Error::Architecture(_))
    ));
}

#[test]
fn json_is_the_runtime_specs() {
    let profile = docker_default(&DOCKER_CAPS, (6, 1));
    let text = serde_json::to_string(&profile).unwrap();
    assert!(text.starts_with(r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"#));
    assert_eq!(serde_json::from_str::<Profile>(&text).unwrap(), profile);
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
        "flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[{"names":["read"],
        "action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1,"valueTwo":2,
        "op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
    let profile: Profile = serde_json::from_str(text).unwrap();
    assert_eq!(profile.syscalls[0].args[0].value_two, 2);
    let flags = |text: &str| {
        let profile: Profile = serde_json::from_str(text).unwrap();
        compile(&profile, Arch::X86_64).unwrap().flags()
    };
    assert_eq!(flags(text), 2);
    // Not named and named as none differ: only the former leaves speculation alone.
    assert_eq!(flags(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#), 4);
    assert_eq!(flags(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":[]}"#), 0);
}
