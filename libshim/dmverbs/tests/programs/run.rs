//! `dmverbs run` is as if it were not there: the program has its own status, signals, descriptors and arguments.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use crate::support::{Installation, failure, is_root, stdout};

#[test]
fn status_and_arguments_are_the_programs_own() {
    let dmverbs = Installation::new();
    assert_eq!(failure(dmverbs.run(&["sh", "-c", "exit 7"])).0, 7);
    let given = ["a b", "", "--help", "-x", "--", "--log"];
    let all = [&["printf", "%s|"], given.as_slice()].concat();
    assert_eq!(stdout(dmverbs.run(&all)), given.join("|") + "|");
    // Without `--`, the options end at the program's name.
    assert_eq!(stdout(dmverbs.command(&[&["run"], all.as_slice()].concat())), given.join("|") + "|");
}

#[test]
fn the_program_takes_over_the_process() {
    let dmverbs = Installation::new();
    let child = dmverbs.run(&["sh", "-c", "echo $$"]).stdout(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), format!("{id}\n"));
}

#[test]
fn signals_reach_the_program_and_end_it() {
    let dmverbs = Installation::new();
    let handler = "import os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(42))
print('ready', flush=True)
while True: signal.pause()";
    let mut child = dmverbs.run(&["python3", "-c", handler]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    // SAFETY: our own child, not waited for yet.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
    assert_eq!(child.wait().unwrap().code(), Some(42));

    let status = dmverbs.run(&["sh", "-c", "kill -KILL $$"]).status().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL));
}

#[test]
fn signal_dispositions_and_descriptors_are_inherited_as_they_are() {
    let dmverbs = Installation::new();
    let asks = "grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd; umask";
    assert_eq!(stdout(dmverbs.run(&["sh", "-c", asks])), stdout(dmverbs.plain("sh", ["-c", asks])));
    let ignores = format!("trap '' PIPE HUP; exec \"$0\" run -- sh -c \"{asks}\"");
    let alone = format!("trap '' PIPE HUP; exec sh -c \"{asks}\"");
    let through = dmverbs.plain("sh", ["-c", &ignores, dmverbs.dmverbs().to_str().unwrap()]);
    assert_eq!(stdout(through), stdout(dmverbs.plain("sh", ["-c", &alone])));
    let closed = "exec \"$0\" run -- sh -c 'test ! -e /proc/self/fd/0' <&-";
    stdout(dmverbs.plain("sh", ["-c", closed, dmverbs.dmverbs().to_str().unwrap()]));
}

#[test]
fn standard_input_is_the_programs() {
    let dmverbs = Installation::new();
    let mut child = dmverbs.run(&["cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hello").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"hello");
}

#[test]
fn the_environment_has_the_libraries_in_front_and_nothing_twice() {
    let dmverbs = Installation::new();
    let libdir = stdout(dmverbs.command(&["libdir"])).trim().to_owned();
    let preload = format!("{libdir}/libdmverbs_preload.so:{libdir}/libibverbs.so.1");
    let show = ["sh", "-c", "echo \"$LD_PRELOAD $LD_LIBRARY_PATH $OTHER\""];

    assert_eq!(stdout(dmverbs.run(&show)), format!("{preload} {libdir} \n"));

    let mut with_own = dmverbs.run(&show);
    with_own.env("LD_PRELOAD", "libdl.so.2 libc.so.6").env("LD_LIBRARY_PATH", "/nowhere").env("OTHER", "kept");
    assert_eq!(stdout(with_own), format!("{preload}:libdl.so.2:libc.so.6 {libdir}:/nowhere kept\n"));

    let command = dmverbs.dmverbs();
    let nested = [&[command.to_str().unwrap(), "run"], show.as_slice()].concat();
    assert_eq!(stdout(dmverbs.run(&nested)), format!("{preload} {libdir} \n"));
}

#[test]
fn options_become_variables() {
    let dmverbs = Installation::new();
    let show = "echo $DMVERBS_LOG $DMVERBS_PORT_RANGE $DMVERBS_IFNAMES $DMVERBS_LANE_PORT $DMVERBS_DEVMEM";
    let mut options = vec!["--log", "debug", "--port-range", "7000-7010", "--ifnames", "lo", "--lane-port", "7011"];
    options.extend(["--devmem", "off"]);
    let words = [&["run"], options.as_slice(), &["sh", "-c", show]].concat();
    assert_eq!(stdout(dmverbs.command(&words)), "debug 7000-7010 lo 7011 off\n");
    let mut inherits = dmverbs.command(&["run", "--log", "info", "sh", "-c", show]);
    inherits.env("DMVERBS_LOG", "debug").env("DMVERBS_IFNAMES", "lo");
    assert_eq!(stdout(inherits), "info lo\n");
}

#[test]
fn bad_options_are_refused() {
    let dmverbs = Installation::new();
    for (bad, named) in [
        (vec!["run"], "<PROGRAM>"),
        (vec!["run", "--bogus", "true"], "--bogus"),
        (vec!["run", "--log", "banana", "true"], "banana"),
        (vec!["run", "--port-range", "9-3", "true"], "9-3"),
        (vec!["run", "--ifnames", "a,,b", "true"], "a,,b"),
        (vec!["run", "--lane-port", "0", "true"], "'0'"),
        (vec!["run", "--devmem", "perhaps", "true"], "perhaps"),
        (vec!["libdir", "x"], "'x'"),
        (vec!["bogus"], "bogus"),
    ] {
        let (status, why) = failure(dmverbs.command(&bad));
        assert!(status == 2 && why.contains(named), "{bad:?}: {status}: {why}");
    }
}

#[test]
fn a_program_that_cannot_be_run_is_named() {
    let dmverbs = Installation::new();
    fs::write(dmverbs.path().join("text"), "exit 5").unwrap();
    fs::write(dmverbs.path().join("orphan"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(dmverbs.path().join("orphan"), Permissions::from_mode(0o755)).unwrap();
    for (program, expected, named) in [
        ("no-such-program", 127, "no-such-program in PATH"),
        ("./no-such-program", 127, "./no-such-program"),
        ("", 127, "empty"),
        ("./text", 126, "./text is not executable"),
        ("/tmp", 126, "/tmp is a folder"),
        ("./orphan", 126, "interpreter"),
    ] {
        let (status, why) = failure(dmverbs.run(&[program]));
        assert!(status == expected && why.contains(named), "{program}: {status}: {why}");
    }
    // As execvp(3) does: a script that does not say what reads it is the shell's.
    fs::set_permissions(dmverbs.path().join("text"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(failure(dmverbs.run(&["./text"])).0, 5);
}

#[test]
fn a_program_with_more_rights_than_its_user_is_refused() {
    if !is_root("a_program_with_more_rights_than_its_user_is_refused") {
        return;
    }
    const NOBODY: u32 = 65534;
    let dmverbs = Installation::new();
    let program = dmverbs.compile("status.c", &[]);
    for (mode, kind) in [(0o4755, "set-user-ID"), (0o2755, "set-group-ID")] {
        chown(&program, Some(NOBODY), Some(NOBODY)).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(mode)).unwrap();
        let (status, why) = failure(dmverbs.run(&[&program]));
        assert!(status == 126 && why.contains(kind), "{status}: {why}");
        // One that is set to who runs it gives no rights.
        chown(&program, Some(0), Some(0)).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(mode)).unwrap();
        assert_eq!(failure(dmverbs.run(&[&program])).0, 3);
    }
}

#[test]
fn a_missing_library_is_named() {
    let dmverbs = Installation::new();
    fs::remove_file(dmverbs.verbs()).unwrap();
    for command in [dmverbs.run(&["true"]), dmverbs.command(&["libdir"])] {
        let (status, why) = failure(command);
        let missing = dmverbs.verbs().canonicalize().unwrap_or(dmverbs.verbs());
        assert_eq!(status, 125);
        assert!(why.contains(missing.to_str().unwrap()) && why.contains("cargo build --release"), "{why}");
    }
}

#[test]
fn an_installation_keeps_its_libraries_elsewhere() {
    let dmverbs = Installation::new();
    let lib = dmverbs.path().join("lib/dmverbs");
    fs::create_dir_all(&lib).unwrap();
    for name in ["libdmverbs_verbs.so", "libdmverbs_preload.so"] {
        fs::rename(dmverbs.path().join("bin").join(name), lib.join(name)).unwrap();
    }
    let libdir = stdout(dmverbs.command(&["libdir"]));
    let link = fs::read_link(format!("{}/libibverbs.so.1", libdir.trim())).unwrap();
    assert_eq!(link, lib.canonicalize().unwrap().join("libdmverbs_verbs.so"));
}

#[test]
fn a_folder_that_others_can_write_to_is_refused() {
    let dmverbs = Installation::new();
    // SAFETY: geteuid(2) always succeeds.
    let folder = dmverbs.path().join(format!("dmverbs-{}", unsafe { libc::geteuid() }));
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    let (status, why) = failure(dmverbs.run(&["true"]));
    assert!(status == 125 && why.contains(folder.to_str().unwrap()), "{status}: {why}");
}

#[test]
fn a_static_program_runs_unaffected() {
    let dmverbs = Installation::new();
    let program = dmverbs.compile("status.c", &["-static"]);
    assert_eq!(failure(dmverbs.run(&[&program])), (3, String::new()));
}
