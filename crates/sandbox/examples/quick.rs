//! How long a start takes: raw fork+exec+wait of a program, and the same program in a sandbox, cold and warm, over the
//! machine's own files and over a layer, each from the order to the event of its end, in one run. Prints medians, 99th
//! percentiles and ratios to the raw start. Needs root.

use sandbox::{Event, Events, Order, Place, Plan, Root, Settings, Spawner};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 300;
const NO_OP: &str = "int main(void) { return 0; }";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let folder = tempfile::Builder::new().prefix("start-").tempdir_in("/var/lib")?;
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let layer = folder.path().join("layer");
    let no_op = make_no_op(&layer)?;
    let settings = Settings {
        program: "/work/wt/engine/target/release/sandbox-spawner".into(),
        arguments: Vec::new(),
        state: folder.path().join("state"),
        place: Place::Range { first: 100_000, count: 65_536 },
        cells: 4,
        hidden: Vec::new(),
    };
    let (spawner, events) = Spawner::start(&settings)?;
    let mut bench = Bench {
        spawner,
        events,
        number: 0,
        null: std::fs::File::options().read(true).write(true).open("/dev/null")?.into(),
    };
    let mut out = std::io::stdout().lock();
    for program in [no_op.to_str().ok_or("a path of letters")?] {
        let raw = measure(rounds, || raw(program))?;
        writeln!(out, "{program}\n  {:<14}{raw}", "raw")?;
        let inside = Path::new("/").join(Path::new(program).strip_prefix(&layer).unwrap_or(Path::new(program)));
        for (name, root, program) in [
            ("process", Root::Host, program),
            ("oci", Root::Layers(vec![layer.clone()]), inside.to_str().ok_or("a path of letters")?),
        ] {
            if name == "oci" && program == "/bin/true" {
                continue;
            }
            let (plan, order) = (plan(root), order(program));
            let cold = measure(rounds, || bench.cold(&plan, &order))?;
            writeln!(out, "  {:<14}{cold}  {:.2}x", format!("cold {name}"), cold.ratio(&raw))?;
            let warm = measure(rounds, || bench.warm(&plan, &order))?;
            writeln!(out, "  {:<14}{warm}  {:.2}x", format!("warm {name}"), warm.ratio(&raw))?;
        }
    }
    Ok(())
}

struct Times(Vec<Duration>);

impl Times {
    fn at(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
    }

    fn ratio(&self, other: &Self) -> f64 {
        self.at(0.5) / other.at(0.5)
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:.3} ms  p99 {:.3} ms  min {:.3} ms", self.at(0.5), self.at(0.99), self.at(0.0))
    }
}

type Measured = Result<Duration, Box<dyn std::error::Error>>;

fn measure(rounds: usize, mut once: impl FnMut() -> Measured) -> Result<Times, Box<dyn std::error::Error>> {
    for _ in 0..rounds / 10 {
        once()?;
    }
    let mut times = (0..rounds).map(|_| once()).collect::<Result<Vec<_>, _>>()?;
    times.sort_unstable();
    Ok(Times(times))
}

fn raw(program: &str) -> Measured {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let begin = Instant::now();
    command.status()?;
    Ok(begin.elapsed())
}

struct Bench {
    spawner: Spawner,
    events: Events,
    number: u64,
    null: OwnedFd,
}

impl Bench {
    fn stdio(&self) -> std::io::Result<[OwnedFd; 3]> {
        Ok([self.null.try_clone()?, self.null.try_clone()?, self.null.try_clone()?])
    }

    fn cold(&mut self, plan: &Plan, order: &Order) -> Measured {
        self.number += 1;
        let stdio = self.stdio()?;
        let begin = Instant::now();
        self.spawner.run(self.number, plan, order, &stdio)?;
        self.end()?;
        Ok(begin.elapsed())
    }

    fn warm(&mut self, plan: &Plan, order: &Order) -> Measured {
        self.number += 1;
        self.spawner.build(self.number, plan)?;
        let Some(Event::Built { .. }) = self.events.next() else { return Err("it was not built".into()) };
        let stdio = self.stdio()?;
        let begin = Instant::now();
        self.spawner.start_program(self.number, order, &stdio)?;
        self.end()?;
        Ok(begin.elapsed())
    }

    fn end(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        loop {
            match self.events.next().ok_or("the spawner is gone")? {
                Event::Ended { .. } => return Ok(()),
                Event::Failed { fault, .. } => return Err(fault.into()),
                _ => {}
            }
        }
    }
}

fn plan(root: Root) -> Plan {
    Plan {
        root,
        binds: Vec::new(),
        hostname: "bench".to_owned(),
        network: model::Network::None,
        limits: model::Limits::default(),
        ptrace: false,
        terminal: false,
        file_capabilities: false,
    }
}

fn order(program: &str) -> Order {
    Order {
        command: vec![program.to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        user: "0".to_owned(),
        window: None,
    }
}

/// Compiles a program that does nothing and needs no library, into a folder that serves as a layer.
fn make_no_op(layer: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    std::fs::create_dir_all(layer)?;
    let program = layer.join("no-op");
    let mut compiler = Command::new("gcc")
        .args(["-static", "-O1", "-x", "c", "-", "-o"])
        .arg(&program)
        .stdin(Stdio::piped())
        .spawn()?;
    compiler.stdin.take().ok_or("a pipe")?.write_all(NO_OP.as_bytes())?;
    if !compiler.wait()?.success() {
        return Err("gcc could not compile the program that does nothing".into());
    }
    Ok(program)
}
