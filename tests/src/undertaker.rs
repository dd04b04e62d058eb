//! Sees to it that nothing outlives this process, however it ends: a shell reads from a pipe which processes and folders are to
//! go, and acts when the pipe closes. Only processes that this process started are ever named to it.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

/// Keeps a list of `SIGNAL:PID`; at the end it signals each, waits up to ten seconds for those, then removes the folders.
/// It ignores the signals of a terminal, which the process it waits for may well die from.
const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT
pids=""; folders=""
while read -r verb what; do
  case "$verb" in
    end) pids="$pids $what" ;;
    forget) kept=""; for p in $pids; do [ "${p#*:}" = "$what" ] || kept="$kept $p"; done; pids="$kept" ;;
    remove) folders="$folders
$what" ;;
  esac
done
for p in $pids; do kill -"${p%%:*}" "${p#*:}" 2>/dev/null; done
for p in $pids; do
  i=0
  while kill -0 "${p#*:}" 2>/dev/null && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done
done
echo "$folders" | while read -r folder; do [ -z "$folder" ] || rm -rf "$folder"; done
"#;

static UNDERTAKER: OnceLock<Mutex<Option<Child>>> = OnceLock::new();

fn start() -> Option<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // A Ctrl-C in the terminal goes to the group of the foreground.
    command.process_group(0).spawn().ok()
}

fn tell(line: &str) {
    let undertaker = UNDERTAKER.get_or_init(|| Mutex::new(start()));
    let mut guard = undertaker.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pipe) = guard.as_mut().and_then(|child| child.stdin.as_mut()) {
        // Without an undertaker things still end when they are dropped.
        let _without_it = writeln!(pipe, "{line}");
    }
}

/// The process gets this signal (`KILL`, `INT`) when this process has ended.
pub fn end(signal: &str, pid: u32) {
    tell(&format!("end {signal}:{pid}"));
}

/// The process has ended and was waited for: its number may soon belong to somebody else.
pub fn forget(pid: u32) {
    tell(&format!("forget {pid}"));
}

/// The folder goes when this process has ended.
pub fn remove(folder: &Path) {
    tell(&format!("remove {}", folder.display()));
}
