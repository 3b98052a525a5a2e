//! Every operation on every entry that a hostile owner of a folder can create.
#![expect(
    clippy::disallowed_methods,
    reason = "a test that cannot start a thread must fail"
)]
use std::{
    fs::{self, Permissions},
    io::Write,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use nix::unistd::mkfifo;

use super::files::COPY_BYTES;
use super::*;

const SECRET: &str = "root's alone";

/// A folder with a trap at `trap` and in the path `way/in`, and a file and a folder outside
/// of it that nothing may touch.
struct Scene {
    place: tempfile::TempDir,
    folder: Folder,
}

/// Types of traps.
const TRAPS: [&str; 6] = [
    "link",
    "dangling",
    "folder-link",
    "up-link",
    "fifo",
    "socket",
];

impl Scene {
    fn new(trap: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("outside/folder")).unwrap();
        fs::write(at("outside/secret"), SECRET).unwrap();
        fs::write(at("outside/folder/in"), SECRET).unwrap();
        fs::create_dir(at("hostile")).unwrap();
        for name in ["trap", "way"] {
            let path = at("hostile").join(name);
            match trap {
                "link" => symlink(at("outside/secret"), path).unwrap(),
                "dangling" => symlink(at("outside/new"), path).unwrap(),
                "folder-link" => symlink(at("outside/folder"), path).unwrap(),
                "up-link" => symlink("../outside/folder", path).unwrap(),
                "fifo" => mkfifo(&path, Mode::from_bits_truncate(0o666)).unwrap(),
                _ => drop(UnixListener::bind(path).unwrap()),
            }
        }
        let folder = Folder::open(&at("hostile")).unwrap();
        Self { place, folder }
    }

    /// Checks that nothing outside was read, written, created or removed.
    fn check(&self, what: &str) {
        let outside = self.place.path().join("outside");
        let names = |path: &Path| -> Vec<OsString> {
            let mut all: Vec<_> = fs::read_dir(path)
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            all.sort();
            all
        };
        assert_eq!(names(&outside), ["folder", "secret"], "{what}");
        assert_eq!(names(&outside.join("folder")), ["in"], "{what}");
        for file in ["secret", "folder/in"] {
            assert_eq!(
                fs::read_to_string(outside.join(file)).unwrap(),
                SECRET,
                "{what}"
            );
        }
        for (name, kind) in self.folder.entries().unwrap() {
            if kind == FileKind::File {
                let text = self.folder.read(&name, 1000).unwrap();
                assert_ne!(text, SECRET.as_bytes(), "{what}");
            }
        }
    }
}

/// Whether an operation must be refused, by its name.
type Operation = (&'static str, fn(&Folder) -> io::Result<()>);

#[test]
fn no_operation_follows_what_is_planted() {
    // These are refused; the trap itself stays.
    let refused: [Operation; 9] = [
        ("read", |f| f.read("trap", 1000).map(drop)),
        ("append", |f| f.append("trap").map(drop)),
        ("open the folder", |f| f.folder("trap").map(drop)),
        ("make the folder", |f| f.make_folder("trap/deep").map(drop)),
        ("read below", |f| f.read("way/in", 1000).map(drop)),
        ("make below", |f| f.create("way/in").map(drop)),
        ("replace below", |f| f.replace("way/in", b"x").map(drop)),
        ("copy", |f| f.copy("trap", f, "copy").map(drop)),
        ("leave", |f| f.read("../outside/secret", 1000).map(drop)),
    ];
    // These treat it as a name like others.
    let replaced: [Operation; 5] = [
        ("make", |f| f.create("trap").map(drop)),
        ("replace", |f| f.replace("trap", b"x").map(drop)),
        ("move", |f| f.rename("trap", f, "moved")),
        ("remove", |f| f.remove("trap")),
        ("give", |f| {
            f.give_all(geteuid().as_raw(), nix::unistd::getegid().as_raw())
        }),
    ];
    for trap in TRAPS {
        for (name, operation) in refused {
            let scene = Scene::new(trap);
            assert!(operation(&scene.folder).is_err(), "{name} of a {trap}");
            scene.check(&format!("{name} of a {trap}"));
        }
        for (name, operation) in replaced {
            let scene = Scene::new(trap);
            let done = operation(&scene.folder);
            assert!(done.is_ok(), "{name} of a {trap}: {done:?}");
            scene.check(&format!("{name} of a {trap}"));
        }
        let scene = Scene::new(trap);
        let all = |_: &str, _: &OsString| true;
        for pattern in ["*", "*/*", "**", "**/*", "way/in", "trap"] {
            assert_eq!(
                scene.folder.find(pattern, &all).unwrap(),
                Vec::<PathBuf>::new()
            );
        }
    }
}

/// Another process exchanges a folder with a link repeatedly while root works in it.
#[test]
fn a_race_of_renames_leads_nowhere() {
    let scene = Scene::new("folder-link");
    let at = |name: &str| scene.place.path().join("hostile").join(name);
    fs::create_dir(at("real")).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::rename(at("real"), at("spot"));
                let _ = fs::rename(at("spot"), at("real"));
                let _ = fs::rename(at("way"), at("spot"));
                let _ = fs::rename(at("spot"), at("way"));
            }
        });
        let mut made = 0;
        for _ in 0..20_000 {
            if let Ok(mut file) = scene.folder.create("spot/in") {
                file.write_all(b"x").unwrap();
                made += 1;
            }
            let _ = scene.folder.remove("spot/in");
            let _ = scene.folder.make_folder("spot/new");
        }
        stop.store(true, Ordering::Relaxed);
        assert!(made > 0, "the folder was never in its place");
    });
    scene.check("a race");
}

#[test]
fn what_is_read_and_copied_is_bounded() {
    let place = tempfile::tempdir().unwrap();
    let folder = Folder::open(place.path()).unwrap();
    let file = File::create(place.path().join("huge")).unwrap();
    file.set_len(1 << 40).unwrap();
    let read = folder.read("huge", 1000).unwrap_err();
    assert_eq!(read.kind(), io::ErrorKind::FileTooLarge);
    let copy = folder.copy("huge", &folder, "copy").unwrap();
    let m = copy.metadata().unwrap();
    assert_eq!(m.len(), 1 << 40);
    assert!(m.blocks() < 1000, "{} blocks", m.blocks());
}

#[test]
fn a_copy_is_what_was_there() {
    let place = tempfile::tempdir().unwrap();
    let folder = Folder::open(place.path()).unwrap();
    let mut bytes = vec![7; COPY_BYTES];
    bytes.extend(vec![0; 3 * COPY_BYTES]);
    bytes.extend(vec![9; 100]);
    bytes.extend(vec![0; 50]);
    fs::write(place.path().join("a"), &bytes).unwrap();
    folder.copy("a", &folder, "b").unwrap();
    assert_eq!(folder.read("b", 1 << 30).unwrap(), bytes);
}

/// The tree is deeper than the limits on descriptors and on path lengths.
#[test]
fn a_deep_tree_is_removed() {
    let place = tempfile::tempdir().unwrap();
    let folder = Folder::open(place.path()).unwrap();
    let mut deepest = folder.make_folder("top").unwrap();
    for _ in 0..3000 {
        deepest = deepest.make_folder("a-folder-with-a-name").unwrap();
        deepest.create("file").unwrap();
    }
    drop(deepest);
    let all = |_: &str, _: &OsString| true;
    assert!(!folder.find("**/file", &all).unwrap().is_empty());
    folder.remove("top").unwrap();
    assert_eq!(folder.entries().unwrap(), []);
    folder.remove("top").unwrap();
}

#[test]
fn patterns_find_what_they_say() {
    let place = tempfile::tempdir().unwrap();
    let folder = Folder::open(place.path()).unwrap();
    for path in ["a.log", "b.txt", "d/a.log", "d/e/a.log", "d/e/f/x"] {
        let path = place.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let matches = |part: &str, name: &OsString| match part.strip_prefix('*') {
        Some(end) => name.to_string_lossy().ends_with(end),
        None => name == part,
    };
    for (pattern, wanted) in [
        ("a.log", &["a.log"][..]),
        ("*.log", &["a.log"]),
        ("d/*.log", &["d/a.log"]),
        ("*/*.log", &["d/a.log"]),
        ("**/a.log", &["a.log", "d/a.log", "d/e/a.log"]),
        ("d/**/x", &["d/e/f/x"]),
        ("d", &[]),
        ("d/e/**", &["d/e/a.log", "d/e/f/x"]),
    ] {
        let found = folder.find(pattern, &matches).unwrap();
        let wanted: Vec<PathBuf> = wanted.iter().map(PathBuf::from).collect();
        assert_eq!(found, wanted, "{pattern}");
    }
}

/// As root: another user's file in a user's folder is not that user's to show, and a
/// hard link is not to be written to.
#[test]
fn another_users_file_is_not_read_for_the_owner_of_a_folder() {
    if !geteuid().is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    fs::write(at("secret"), SECRET).unwrap();
    fs::create_dir(at("theirs")).unwrap();
    fs::write(at("theirs/own"), "own").unwrap();
    fs::write(at("theirs/moved"), SECRET).unwrap();
    for name in ["secret", "theirs/moved"] {
        fs::set_permissions(at(name), Permissions::from_mode(0o600)).unwrap();
    }
    fs::hard_link(at("secret"), at("theirs/linked")).unwrap();
    let nobody = Some(65534);
    std::os::unix::fs::chown(at("theirs"), nobody, nobody).unwrap();
    std::os::unix::fs::chown(at("theirs/own"), nobody, nobody).unwrap();
    let folder = Folder::open(&at("theirs")).unwrap();
    assert_eq!(folder.read("own", 100).unwrap(), b"own");
    for name in ["moved", "linked"] {
        assert!(folder.read(name, 100).is_err(), "{name}");
        assert!(folder.append(name).is_err(), "{name}");
        assert!(folder.copy(name, &folder, "copy").is_err(), "{name}");
    }
    folder.give_all(1, 1).unwrap();
    let owner = fs::metadata(at("secret")).unwrap().uid();
    assert_eq!(owner, 0, "the file behind a hard link was given away");
}

/// The folder that the caller names may be reached by links of root, not by others'.
#[test]
fn links_to_the_callers_folder_are_followed_if_they_are_trusted() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    fs::create_dir(at("real")).unwrap();
    symlink(at("real"), at("link")).unwrap();
    let (folder, made) = Folder::make(&at("link/new/deep")).unwrap();
    assert_eq!(made.len(), 2);
    folder.create("file").unwrap();
    assert!(at("real/new/deep/file").exists());
    if geteuid().is_root() {
        std::os::unix::fs::lchown(at("link"), Some(65534), Some(65534)).unwrap();
        let error = Folder::make(&at("link/again")).unwrap_err().to_string();
        assert!(error.contains("a link of another user"), "{error}");
        assert!(!at("real/again").exists());
    }
}
