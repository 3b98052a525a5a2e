//! The command line: arguments, exit codes, output. The work is done in the libraries.

mod agent;
mod attach;
#[cfg(feature = "bench")]
mod bench;
mod doctor;
mod error;
mod exec;
mod host_args;
mod load;
mod multi_host;
mod netns;
mod plan;
mod run;
mod set;
mod stale;
mod start;
mod status;
mod verify;

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use emu_kernel::user;
use emu_model::{
    name::{printable, printable_json},
    topology,
};
use serde::Serialize;

use error::CommandError;

/// Success.
const OK: u8 = 0;
/// An operation or a check failed.
const FAILED: u8 = 1;
/// The command line or the topology is wrong.
const USAGE: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  emu load topologies/p2plab.yaml            load, and measure every pair of groups
  emu load topo.yaml --dry-run               show what would be done
  emu exec cable/0 -- curl http://10.2.0.1/  run a program as a vnode
  emu run experiment.yaml                    many programs, on a schedule
  emu status 10.1.1.7                        the pipes of one vnode
  emu set modem up=64kbit latency=80ms       change access links while packets pass
  emu verify --rates --json | jq .ok         check latencies and rates
  emu unload                                 undo all changes
  emu load topo.yaml --netns lab             in a network namespace of its own
  emu exec --netns lab cable/0 -- sh         every command works inside it

Exit codes: 0 all well, 1 an operation or a check failed, 2 wrong usage or topology.";

/// Kernel-side network emulator: thousands of programs on one machine, each behind its own
/// access link.
#[derive(Parser)]
#[command(name = "emu", version, after_help = EXAMPLES)]
struct Cli {
    /// Log the steps on standard error; -vv also each change of the kernel's state and each
    /// start and end of a program.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(flatten)]
    netns: netns::NetnsArg,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load a topology in this network namespace.
    Load(load::Load),
    /// Show what a load would do, or the placement of vnodes on hosts.
    Plan(plan::PlanArgs),
    /// Undo all changes of `load`.
    Unload {
        /// Kill the processes of vnodes that are still running.
        #[arg(long)]
        kill: bool,
        /// Unload even if sockets of other processes are bound to vnodes' addresses.
        #[arg(long)]
        force: bool,
        /// Remove what is left of network namespaces that no longer exist, and objects of emu in
        /// this one that no journal tells of.
        #[arg(long, conflicts_with = "kill")]
        stale: bool,
        /// With --stale: only list what would be removed of other namespaces.
        #[arg(long, requires = "stale")]
        dry_run: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run a program as a vnode: its sockets get the vnode's address.
    Exec(exec::Exec),
    /// Run an experiment: programs on vnodes, on a schedule, with results.
    Run(run::Run),
    /// Clean up after a run that died.
    #[command(hide = true)]
    RunGuardian {
        /// Name of the run.
        run: String,
    },
    /// Work on results of `emu run`.
    #[command(subcommand)]
    Results(multi_host::Results),
    /// Show the loaded topology, and the counters of its pipes.
    Status(status::Status),
    /// Change access links and links between groups while packets pass.
    Set(set::Set),
    /// Partition two groups: drop all packets between them.
    Partition(set::Pair),
    /// Heal the partition of two groups.
    Heal(set::Pair),
    /// Take vnodes down.
    Down(set::Vnodes),
    /// Bring vnodes up again.
    Up(set::Vnodes),
    /// Run the events of the loaded topology.
    Start(start::Start),
    /// Converge this host to the state in a file, as a service with metrics.
    Agent(agent::Agent),
    /// Let a container be a vnode that is a machine.
    Attach(attach::Attach),
    /// Give the line of a vnode back to the machine.
    Detach(attach::Detach),
    /// Measure every pair of groups with real packets.
    Verify(verify::Verify),
    /// Measure the emulator itself: its cost and its accuracy.
    #[cfg(feature = "bench")]
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Report the features of this kernel and the rights of this user, by trying them.
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check a file of a topology or an experiment, without any effect.
    Check {
        /// The topology or the experiment; `-` is the standard input.
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of files.
    #[command(after_help = "\
Examples:
  emu schema > topology.schema.json
  emu schema experiment > experiment.schema.json")]
    Schema {
        /// Kind of file.
        #[arg(value_enum, default_value_t = Form::Topology)]
        form: Form,
    },
    /// Print a completion script.
    #[command(after_help = "Example: emu completions bash > /etc/bash_completion.d/emu")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Kinds of files.
#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Topology,
    Experiment,
}

/// Result of a command: an exit code, or an error to print.
type Outcome = Result<u8, CommandError>;

/// Ends the process at a panic of any thread, as release builds do by their profile. The
/// profile of other builds unwinds, since cargo builds tests so, and one kind of build for both
/// compiles each dependency once.
fn abort_at_a_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Runs the command that the arguments of this process ask for, and returns its exit code.
pub fn main() -> ExitCode {
    abort_at_a_panic();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not errors, and go to standard output.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { OK });
        }
    };
    if !matches!(cli.command, Command::Agent(_)) {
        log(cli.verbose);
    }
    // Before any thread starts, since a thread inherits the namespace.
    let mut namespace = match cli.netns.enter(&cli.command) {
        Ok(namespace) => namespace,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(match cli.command {
                Command::Exec(_) => exec::OWN_FAILURE,
                _ => error.exit_code(),
            });
        }
    };
    let outcome = match cli.command {
        Command::Load(load) => {
            let outcome = load.run(&mut namespace);
            namespace.after_load(outcome)
        }
        Command::Plan(plan) => plan.run(),
        Command::Unload {
            json,
            stale: true,
            dry_run,
            ..
        } => stale::run(dry_run, json),
        Command::Unload {
            json, kill, force, ..
        } => load::unload(json, kill, force, &namespace),
        Command::Exec(exec) => return exec.run(),
        Command::Run(run) => run.run(&mut namespace),
        Command::RunGuardian { run } => run::guardian(&run, &namespace),
        Command::Results(results) => results.run(),
        Command::Status(status) => status.run(),
        Command::Set(set) => set.run(),
        Command::Partition(pair) => pair.run(true),
        Command::Heal(pair) => pair.run(false),
        Command::Down(vnodes) => vnodes.run(true),
        Command::Up(vnodes) => vnodes.run(false),
        Command::Start(start) => start.run(),
        Command::Agent(agent) => agent.run(),
        Command::Attach(attach) => attach.run(),
        Command::Detach(detach) => detach.run(),
        Command::Verify(verify) => verify.run(),
        Command::Doctor { json } => doctor::run(json),
        #[cfg(feature = "bench")]
        Command::Bench(bench) => bench.run(),
        Command::Check { file, json } => check(&file, json),
        Command::Schema { form } => print(&match form {
            Form::Topology => emu_model::topology::json_schema(),
            Form::Experiment => emu_model::experiment::json_schema(),
        }),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "emu", &mut io::stdout());
            Ok(OK)
        }
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{}", printable(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Logs on standard error; the agent has options of its own for its log.
fn log(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(watched() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .init();
}

/// `emu check`: reads the file once, since it may be a pipe.
fn check(file: &Path, as_json: bool) -> Outcome {
    let text = match user::as_caller(|| topology::read_text(file))? {
        Ok(text) => text,
        Err(errors) if as_json => {
            print(&errors.to_json())?;
            return Ok(USAGE);
        }
        Err(errors) => return Err(errors.into()),
    };
    if emu_model::experiment::looks_like_one(&text) {
        run::check(file, text, as_json)
    } else {
        load::check(file, text, as_json)
    }
}

/// Prints text, whose control characters become escapes. A reader that has closed
/// the pipe is not an error.
fn print(text: &str) -> Outcome {
    print_raw(&printable(text))
}

fn print_json<T: Serialize>(value: &T) -> Outcome {
    print_raw(&printable_json(&serde_json::to_string_pretty(value)?))
}

fn print_raw(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end());
    Ok(OK)
}

/// Whether standard error is a terminal.
fn watched() -> bool {
    io::stderr().is_terminal()
}

/// A table with a header and the given columns to the right.
fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.iter().copied());
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    table
}
