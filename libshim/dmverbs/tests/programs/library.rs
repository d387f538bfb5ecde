//! Whichever way a program asks for libibverbs, it gets the library that belongs to dmverbs.

use std::fs;
use std::process::Command;

use crate::support::{Installation, is_root, stdout};

#[test]
fn every_way_to_open_the_library_leads_to_it() {
    let dmverbs = Installation::new();
    let opens = dmverbs.compile("opens.c", &[]);
    dmverbs.compile_library("opener.c", &dmverbs.path().join("opener.so"), &[]);
    let other = dmverbs.path().join("libibverbs.so.1");
    dmverbs.compile_library("standin.c", &other, &[]);
    for name in ["libibverbs.so", "libibverbs.so.1", "libibverbs.so.1.14.44.0", other.to_str().unwrap()] {
        for how in ["plainly", "deep", "namespace"] {
            assert_eq!(stdout(dmverbs.run(&[&opens, how, name])), ours(&dmverbs), "{how} {name}");
        }
    }
    // A library opened with RTLD_DEEPBIND calls libc's dlopen, whatever is preloaded: only names can be redirected.
    for name in ["libibverbs.so", "libibverbs.so.1"] {
        assert_eq!(stdout(dmverbs.run(&[&opens, "plugin", name])), ours(&dmverbs), "plugin {name}");
    }
}

#[test]
fn a_linked_program_gets_it_even_where_its_rpath_leads_elsewhere() {
    let dmverbs = Installation::new();
    let other = dmverbs.path().join("other");
    fs::create_dir(&other).unwrap();
    dmverbs.compile_library("standin.c", &other.join("libibverbs.so.1"), &[]);
    let library = other.join("libibverbs.so.1");
    let rpath = format!("-Wl,-rpath,{}", other.display());
    for tags in ["--disable-new-dtags", "--enable-new-dtags"] {
        let linked = dmverbs.compile("linked.c", &[library.to_str().unwrap(), &rpath, &format!("-Wl,{tags}")]);
        assert_eq!(stdout(dmverbs.plain(&linked, [""])), format!("{}\n", library.canonicalize().unwrap().display()));
        assert_eq!(stdout(dmverbs.run(&[&linked])), ours(&dmverbs), "{tags}");
    }
}

#[test]
fn a_script_that_sets_its_own_library_path_does_not_lose_it() {
    let dmverbs = Installation::new();
    let opens = dmverbs.compile("opens.c", &[]);
    let script = format!("LD_LIBRARY_PATH=/nowhere exec {opens} plainly libibverbs.so");
    assert_eq!(stdout(dmverbs.run(&["sh", "-c", &script])), ours(&dmverbs));
}

#[test]
fn other_libraries_are_still_searched_from_their_caller() {
    let dmverbs = Installation::new();
    let folder = dmverbs.path().join("plugins");
    fs::create_dir(&folder).unwrap();
    dmverbs.compile_library("standin.c", &folder.join("libplugin-of-ours.so"), &[]);
    let runpath = format!("-Wl,-rpath,{},--enable-new-dtags", folder.display());
    let opens = dmverbs.compile("opens.c", &[&runpath]);
    let plugin = folder.canonicalize().unwrap().join("libplugin-of-ours.so");
    for how in ["plainly", "namespace"] {
        assert_eq!(stdout(dmverbs.run(&[&opens, how, "libplugin-of-ours.so"])), format!("{}\n", plugin.display()));
    }
}

#[test]
fn opening_other_libraries_is_as_it_was() {
    let dmverbs = Installation::new();
    let waits = dmverbs.compile("waits.c", &["-pthread"]);
    dmverbs.compile_library("waiter.c", &dmverbs.path().join("waiter.so"), &["-pthread"]);
    for what in ["thread", "error"] {
        let output = stdout(dmverbs.run(&["timeout", "20", &waits, what]));
        assert!(output.starts_with(what), "{what}: {output}");
    }
}

#[test]
fn the_plain_forms_work_without_run() {
    let dmverbs = Installation::new();
    let verbs = dmverbs.verbs();
    let linked = dmverbs.compile("linked.c", &[verbs.to_str().unwrap()]);
    let opens = dmverbs.compile("opens.c", &[]);
    let libdir = stdout(dmverbs.command(&["libdir"]));
    let with = |mut command: Command, variable: &str, value: &str| {
        command.env(variable, value);
        stdout(command)
    };
    assert_eq!(with(dmverbs.plain(&linked, [""]), "LD_PRELOAD", verbs.to_str().unwrap()), ours(&dmverbs));
    assert_eq!(with(dmverbs.plain(&linked, [""]), "LD_LIBRARY_PATH", libdir.trim()), ours(&dmverbs));
    for name in ["libibverbs.so", "libibverbs.so.1"] {
        let command = dmverbs.plain(&opens, ["plainly", name]);
        assert_eq!(with(command, "LD_LIBRARY_PATH", libdir.trim()), ours(&dmverbs), "{name}");
    }
}

/// With the packages installed, the tests above have them in the default path. Here they are hidden.
#[test]
fn no_other_libibverbs_needs_to_be_installed() {
    const NAME: &str = "no_other_libibverbs_needs_to_be_installed";
    if !is_root(NAME) {
        return;
    }
    if !fs::read_to_string("/proc/filesystems").unwrap().contains("overlay") {
        println!("skipped: {NAME}: this kernel has no overlay file system to hide the installed library with");
        return;
    }
    let dmverbs = Installation::new();
    let opens = dmverbs.compile("opens.c", &[]);
    // A device 0:0 in the upper layer hides the file of the lower one.
    let script = "set -e
        mount -t tmpfs none \"$1\"
        mkdir \"$1/upper\" \"$1/work\"
        for file in \"$2\"/libibverbs.so*; do
            test ! -e \"$file\" || mknod \"$1/upper/${file##*/}\" c 0 0
        done
        mount -t overlay none -o \"lowerdir=$2,upperdir=$1/upper,workdir=$1/work\" \"$2\"
        ! \"$3\" plainly libibverbs.so.1 >/dev/null
        ! \"$3\" plainly libibverbs.so >/dev/null
        \"$0\" run -- \"$3\" plainly libibverbs.so
        \"$0\" run -- \"$3\" deep libibverbs.so.1";
    let cover = dmverbs.path().join("cover");
    fs::create_dir(&cover).unwrap();
    let libraries = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let arguments =
        [dmverbs.dmverbs().to_str().unwrap(), cover.to_str().unwrap(), &libraries, &opens].map(str::to_owned);
    let command = dmverbs.plain("unshare", [&["-m", "sh", "-c", script].map(str::to_owned), &arguments[..]].concat());
    assert_eq!(stdout(command), ours(&dmverbs).repeat(2));
}

fn ours(dmverbs: &Installation) -> String {
    format!("{}\n", dmverbs.verbs().canonicalize().unwrap().display())
}
