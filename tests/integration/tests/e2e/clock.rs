//! Virtual time, as programs in the VM observe it. The tests are skipped where the clock is
//! the machine's.
use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime},
};

use emu_kernel::clock::Stopwatch;
use integration::command::{python, run};

/// Runs a test with a stopwatch for the virtual and the machine's clock.
fn in_virtual_time(test: impl FnOnce(Stopwatch)) {
    match Stopwatch::start() {
        Some(stopwatch) => test(stopwatch),
        None => println!("SKIPPED: the clock is the machine's"),
    }
}

#[test]
fn a_long_sleep_takes_no_time_and_ends_on_time() {
    in_virtual_time(|stopwatch| {
        let start = Instant::now();
        thread::sleep(Duration::from_secs(1_000));
        let late = start.elapsed() - Duration::from_secs(1_000);
        let used = stopwatch.elapsed();
        println!(
            "{} us late; {:.2} s on the machine",
            late.as_micros(),
            used.wall_s
        );
        // The kernel gives a sleeping thread 50 us of slack (prctl(2), PR_SET_TIMERSLACK).
        assert!(late < Duration::from_micros(100), "{late:?}");
        assert!(used.emulated_s >= 1_000.0 && used.wall_s < 60.0, "{used}");
        assert_eq!(used.spins, 0, "{used}");
    });
}

#[test]
fn a_program_that_computes_without_a_call_is_interrupted() {
    in_virtual_time(|stopwatch| {
        let start = Instant::now();
        let spinner = Command::new("timeout")
            .args(["2", "sh", "-c", "while :; do :; done"])
            .status()
            .unwrap();
        let used = stopwatch.elapsed();
        println!("{used}");
        assert_eq!(spinner.code(), Some(124), "timeout(1) ended it");
        assert!(used.spins > 0, "{used}");
        let took = start.elapsed();
        assert!((2.0..2.2).contains(&took.as_secs_f64()), "{took:?}");
    });
}

#[test]
fn a_program_that_polls_the_clock_sees_it_move() {
    in_virtual_time(|stopwatch| {
        let start = Instant::now();
        let mut reads = 0_u32;
        while start.elapsed() < Duration::from_millis(5) {
            reads += 1;
        }
        let used = stopwatch.elapsed();
        // Each read enters the kernel for a microsecond; the timer tick also takes some
        // time.
        assert!((4_000..=5_000).contains(&reads), "{reads} reads: {used}");
        assert_eq!(used.spins, 0, "{used}");
    });
}

#[test]
fn threads_that_poll_for_each_other_make_progress() {
    in_virtual_time(|stopwatch| {
        let Some(python) = python() else {
            println!("SKIPPED: no python3");
            return;
        };
        // One thread polls a variable until another one, which sleeps, has set it.
        let program = "
import threading, time
done = []
def sleeper():
    time.sleep(3)
    done.append(1)
threading.Thread(target=sleeper).start()
n = 0
while not done:
    n += 1
print('went on')
";
        let output = Command::new(python).args(["-c", program]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, "went on\n", "{output:?}");
        let used = stopwatch.elapsed();
        println!("{used}");
        assert!((3.0..6.0).contains(&used.emulated_s), "{used}");
    });
}

#[test]
fn files_that_are_written_have_the_emulated_time() {
    in_virtual_time(|_| {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("file");
        // Without an emulated clock this would differ from the host's time by hours.
        thread::sleep(Duration::from_secs(5 * 3_600));
        let before = SystemTime::now();
        fs::write(&path, "x").unwrap();
        run("sync");
        // The file is looked up again, so that the guest asks the host.
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let late = time.duration_since(before).unwrap_or_default();
        let early = before.duration_since(time).unwrap_or_default();
        assert!(
            late < Duration::from_secs(60) && early < Duration::from_secs(1),
            "{late:?} late, {early:?} early"
        );
    });
}
