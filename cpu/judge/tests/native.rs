//! The real processor, asked by known instructions.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use atoll_judge::{Case, End, Native, Outcome};

fn run(code: &[u8], change: impl FnOnce(&mut Case)) -> (Case, Outcome) {
    let mut case = Case {
        code: code.to_vec(),
        ..Case::default()
    };
    change(&mut case);
    let outcome = Native::new().unwrap().run_one(&case).unwrap();
    (case, outcome)
}

fn exception(vector: u8, error: u64, address: u64) -> End {
    End::Exception {
        vector,
        error,
        address,
    }
}

#[test]
fn all_state_comes_back_as_it_went_in() {
    let (case, outcome) = run(&[0x90], |case| {
        let state = &mut case.state;
        for (i, register) in state.registers.iter_mut().enumerate() {
            *register = 0x0101_0101_0101_0101 * (i as u64 + 1);
        }
        for (i, xmm) in state.fpu.xmm.iter_mut().enumerate() {
            *xmm = u128::MAX / (i as u128 + 3);
        }
        for (i, st) in state.fpu.st.iter_mut().enumerate() {
            *st = 0x3FFF_8000_0000_0000_0000 + i as u128;
        }
        (state.fpu.tags, state.fpu.status, state.fpu.control) = (0xF0, 0x2100, 0x27F);
        state.fpu.mxcsr = 0xBF80;
        state.rflags = 0xCD5;
        state.fs_base = 0x1234_5678;
        state.gs_base = 0xFFFF_8000_0000_0000;
        case.state.rip += 4094;
    });
    let mut expected = case.state.clone();
    expected.rip += 2;
    assert_eq!(outcome.end, exception(3, 0, 0));
    assert_eq!(outcome.state, expected);
    assert!(outcome.changes.0.is_empty());
}

#[test]
fn writes_are_reported() {
    // mov [rdi], eax; push rax
    let (_, outcome) = run(&[0x89, 0x07, 0x50], |case| {
        case.state.registers[0] = 0x1122_3344_5566_7788;
        case.state.registers[7] = 0x2000_0010;
        case.patch(0x2000_0010, &[0; 4]);
        case.patch(0x2000_0FF8, &[0; 8]);
    });
    assert_eq!(
        outcome.changes.0,
        [
            (0x10, vec![0x88, 0x77, 0x66, 0x55]),
            (0xFF8, 0x1122_3344_5566_7788_u64.to_le_bytes().to_vec())
        ]
    );
    assert_eq!(outcome.state.registers[4], 0x2000_0FF8);
}

#[test]
fn faults_have_vector_error_and_address() {
    let at = |address: u64| move |case: &mut Case| case.state.registers[7] = address;
    // mov [rdi], eax over the end of the data, to the read-only page, to nowhere and to no address.
    let store = [0x89, 0x07];
    assert_eq!(
        run(&store, at(0x2000_1FFE)).1.end,
        exception(14, 6, 0x2000_2000)
    );
    assert_eq!(
        run(&store, at(0x1FFF_F010)).1.end,
        exception(14, 7, 0x1FFF_F010)
    );
    assert_eq!(run(&store, at(0x77)).1.end, exception(14, 6, 0x77));
    assert_eq!(run(&store, at(1 << 63)).1.end, exception(13, 0, 0));
    // Fetch from the data; division by zero; ud2; hlt; jump onto the breakpoints.
    assert_eq!(
        run(&[0xFF, 0xE7], at(0x2000_0000)).1.end,
        exception(14, 0x15, 0x2000_0000)
    );
    assert_eq!(run(&[0xF7, 0xF1], |_| ()).1.end, exception(0, 0, 0));
    assert_eq!(run(&[0x0F, 0x0B], |_| ()).1.end, exception(6, 0, 0));
    assert_eq!(run(&[0xF4], |_| ()).1.end, exception(13, 0, 0));
    assert_eq!(run(&[0xEB, 0x10], |_| ()).1.state.rip, 0x1000_0013);
}

#[test]
fn an_endless_case_ends_and_the_next_runs() {
    let case = |code: &[u8]| Case {
        code: code.to_vec(),
        ..Case::default()
    };
    let outcomes = Native::new()
        .unwrap()
        .run(&[case(&[0xEB, 0xFE]), case(&[0x90])])
        .unwrap();
    assert_eq!(outcomes[0].end, End::Endless);
    assert_eq!(outcomes[1].end, exception(3, 0, 0));
}

#[test]
fn flags_that_would_hurt_the_host_do_not() {
    // popfq with AC, NT, ID, DF, TF set.
    let (_, outcome) = run(&[0x9D], |case| {
        case.patch(0x2000_1000, &0x24_4500_u64.to_le_bytes());
    });
    assert_eq!(outcome.state.rflags, 0x24_4500);
}

#[test]
fn a_malformed_case_is_refused() {
    let case = Case {
        code: vec![0x90; 100],
        ..Case::default()
    };
    assert!(Native::new().unwrap().run(&[case]).is_err());
}
