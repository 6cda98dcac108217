//! Runs the commands of README.md with the real program.
//!
//! Every `sh` block runs line by line in one temporary directory, in the order of the file, unless an HTML comment
//! `<!-- not run: REASON -->` stands directly above it. The program sees no downloaded models and no network.
#![cfg(all(unix, feature = "media", feature = "demo", feature = "server"))]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;

const README: &str = include_str!("../README.md");
const NOT_RUN: &str = "<!-- not run: ";
/// A server loads the built-in model in seconds; a busy machine takes longer.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// One fenced `sh` block.
#[derive(Debug)]
struct Block {
    /// Line of its fence in README.md, from 1.
    line: usize,
    /// Commands without their comments.
    commands: Vec<String>,
    /// Why it is not run.
    not_run: Option<String>,
}

/// The `sh` blocks of a Markdown text.
fn blocks(text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.lines().collect();
    let mut blocks = Vec::new();
    for (i, _) in lines.iter().enumerate().filter(|(_, line)| **line == "```sh") {
        let end = lines[i + 1..].iter().position(|line| *line == "```").expect("a closed block");
        let commands = lines[i + 1..i + 1 + end]
            .iter()
            .map(|line| without_comment(line))
            .filter(|line| !line.is_empty());
        let above = i.checked_sub(1).map_or("", |above| lines[above]);
        let not_run = above.strip_prefix(NOT_RUN).and_then(|rest| rest.strip_suffix(" -->"));
        blocks.push(Block {
            line: i + 1,
            commands: commands.map(str::to_string).collect(),
            not_run: not_run.map(str::to_string),
        });
    }
    blocks
}

fn without_comment(line: &str) -> &str {
    match line.starts_with('#') {
        true => "",
        false => line.split_once(" #").map_or(line, |(command, _)| command).trim_end(),
    }
}

/// A directory of its own, and a shell that finds the program under test first.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// `sh -c line` here.
    fn shell(&self, line: &str) -> Command {
        let program = cargo_bin("latentsync");
        let mut path = vec![program.parent().expect("a directory").to_path_buf()];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let mut command = Command::new("sh");
        command
            .args(["-e", "-c", line])
            .current_dir(self.path())
            .env("PATH", std::env::join_paths(path).expect("paths without colons"))
            .env("HF_HOME", self.path().join("hub-home"))
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("HF_HUB_CACHE")
            .env_remove("RUST_LOG")
            .env("LATENTSYNC_PORT", "0");
        command
    }

    /// Runs a command that ends by itself.
    fn run(&self, line: &str) {
        let output = self.shell(line).output().expect("a shell");
        assert!(
            output.status.success(),
            "`{line}`: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Runs a server until it is ready, then interrupts it.
    fn serve(&self, line: &str) {
        // `exec`: the signal reaches the program and not the shell.
        let mut child = self.shell(&format!("exec {line}")).stderr(Stdio::piped()).spawn().expect("a shell");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("listening on http://").map(|(_, address)| address.to_string()));
        // Keeps the pipe empty.
        std::thread::spawn(move || lines.for_each(drop));
        let address = address.unwrap_or_else(|| panic!("`{line}` does not listen: {:?}", child.wait()));
        let started = Instant::now();
        while !get(&address, "/readyz").starts_with("HTTP/1.1 200") {
            assert!(started.elapsed() < START_TIMEOUT, "`{line}` is not ready");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(get(&address, "/").contains("<title>latentsync</title>"), "`{line}` serves no page");
        let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(signal.expect("the command `kill`").success());
        assert!(child.wait().expect("an exit status").success(), "`{line}` fails after an interruption");
    }
}

/// The response to a GET request, head and body.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("a request");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).expect("a response");
    String::from_utf8_lossy(&response).into_owned()
}

#[test]
fn every_command_of_the_readme_runs() {
    let place = Place::new();
    let mut run = 0;
    for Block { line, commands, not_run } in blocks(README) {
        if let Some(reason) = not_run {
            eprintln!("README.md:{line}: not run: {reason}");
            continue;
        }
        for command in commands {
            assert!(
                command.starts_with("latentsync "),
                "README.md:{line}: `{command}` needs `{NOT_RUN}REASON -->`"
            );
            eprintln!("README.md:{line}: {command}");
            match command.starts_with("latentsync serve") {
                true => place.serve(&command),
                false => place.run(&command),
            }
            run += 1;
        }
    }
    assert!(run >= 5, "only {run} commands ran");
    for name in ["latentsync-demo/spoken-1.mp4", "out.mp4"] {
        let path = place.path().join(name);
        assert!(path.metadata().is_ok_and(|file| file.len() > 10_000), "`{name}` is missing or empty");
    }
}

#[test]
fn a_block_is_skipped_only_with_a_reason() {
    let text = "```sh\na # b\n# c\n\nd\n```\n<!-- not run: slow -->\n```sh\ne\n```\n<!-- note -->\n```sh\nf\n```\n```text\ng\n```\n";
    let found: Vec<_> =
        blocks(text).into_iter().map(|block| (block.line, block.commands, block.not_run)).collect();
    let commands = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    assert_eq!(
        found,
        [
            (1, commands(&["a", "d"]), None),
            (8, commands(&["e"]), Some("slow".to_string())),
            (12, commands(&["f"]), None),
        ]
    );
    assert!(blocks(README).iter().all(|block| block.not_run.as_deref() != Some("")));
}

#[test]
fn the_readme_is_short_and_its_links_lead_to_files() {
    assert!(README.lines().count() <= 150, "{} lines", README.lines().count());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![
        root.join("README.md"),
        root.join("CONTRIBUTING.md"),
        root.join("CHANGELOG.md"),
        root.join("SECURITY.md"),
    ];
    for directory in ["docs", "docs/vendors", "benches", "models/demo", "scripts/train_demo"] {
        let entries = std::fs::read_dir(root.join(directory)).expect("a directory");
        pages.extend(
            entries
                .map(|entry| entry.expect("an entry").path())
                .filter(|path| path.extension().is_some_and(|e| e == "md")),
        );
    }
    assert!(pages.len() > 15, "{pages:?}");
    let broken: Vec<String> = pages.iter().flat_map(|page| broken_links(page)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Links of a page to files or headings that do not exist. Links to other hosts are not followed.
fn broken_links(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).expect("a page");
    let directory = page.parent().expect("a directory");
    let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
    let broken = links.filter(|link| !link.contains("://") && !link.contains(' ')).filter(|link| {
        let (file, heading) = link.split_once('#').unwrap_or((link, ""));
        let target = if file.is_empty() { page.to_path_buf() } else { directory.join(file) };
        !target.exists() || !(heading.is_empty() || headings(&target).iter().any(|known| known == heading))
    });
    broken.map(|link| format!("{}: {link}", page.display())).collect()
}

/// The anchors that GitHub gives to a page's headings.
fn headings(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap_or_default();
    let titles = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim().to_lowercase());
    titles
        .map(|title| {
            let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}
