//! Sandboxes that are built ahead, parked and started later.

use crate::bench::{Bench, Who, order, plan, shell, streams, text};
use sandbox::{Event, FaultKind, Status};

#[test]
fn parked_sandboxes_run_what_comes() {
    for who in [Who::Root, Who::Ordinary] {
        let mut bench = Bench::of(who);
        let numbers: Vec<u64> = (0..4).map(|_| bench.number()).collect();
        for number in &numbers {
            bench.spawner.build(*number, &plan()).expect("the spawner listens");
        }
        let mut built = Vec::new();
        while built.len() < numbers.len() {
            match bench.events.next() {
                Some(Event::Built { number, wire: None }) => built.push(number),
                other => panic!("{who:?}: {other:?}"),
            }
        }
        for number in numbers {
            let (stdio, output, _error) = streams(b"abc");
            let order = shell("cat; echo; echo $$; exit 5");
            bench.spawner.start_program(number, &order, &stdio).expect("the spawner listens");
            drop(stdio);
            assert!(bench.started(number).is_none());
            let ending = bench.end(number).expect("it ran");
            assert_eq!((ending.status, text(output).as_str()), (Status::Exited(5), "abc\n2\n"), "{who:?}");
        }
    }
}

#[test]
fn a_parked_sandbox_says_when_it_cannot_run_something() {
    let mut bench = Bench::new();
    let number = bench.number();
    bench.spawner.build(number, &plan()).expect("the spawner listens");
    let (stdio, ..) = streams(b"");
    assert!(matches!(bench.events.next(), Some(Event::Built { .. })));
    bench.spawner.start_program(number, &order(&["nothing-like-it"]), &stdio).expect("the spawner listens");
    let fault = bench.end(number).expect_err("there is no such program");
    assert_eq!(fault.kind, FaultKind::NoProgram, "{fault}");
}
