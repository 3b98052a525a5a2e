//! Notifies the reconciler when the file may have changed: the file itself, its name in its
//! folder, or a symbolic link in its path, as Kubernetes swaps that of a ConfigMap.
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc::Sender,
    thread,
    time::Duration,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::Message;

/// Wait for the rest of a change, since a swap is several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// Largest number of symbolic links that are followed.
const MOST_LINKS: usize = 40;

/// Identifies a version of a file without reading it: device, inode, length and time of the
/// last change.
pub(super) type Print = (u64, u64, u64, i64, i64);

pub(super) fn print(file: &Path) -> Option<Print> {
    let m = fs::metadata(file).ok()?;
    Some((m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec()))
}

/// Folders in which a change can lead to another file: that of the path and, for each
/// symbolic link in it, that of its target.
fn folders(file: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut open = vec![file.to_owned()];
    while let Some(path) = open.pop() {
        let Some(folder) = path.parent() else {
            continue;
        };
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        if folders.len() >= MOST_LINKS || !folders.insert(folder.to_owned()) {
            continue;
        }
        // Every component of the path may be a link: `..data` of a ConfigMap is a folder.
        for part in path.ancestors() {
            if let Ok(target) = part.read_link() {
                let rest = path.strip_prefix(part).unwrap_or(Path::new(""));
                let base = part.parent().unwrap_or(Path::new(""));
                open.push(base.join(target).join(rest));
            }
        }
    }
    folders
}

/// Starts watching; the thread ends with the reconciler.
pub(super) fn start(file: &Path, sender: Sender<Message>) -> io::Result<()> {
    let file = file.to_owned();
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let watch = move || {
        let interesting = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_DELETE_SELF;
        loop {
            // Computed each time, since links may have changed. The periodic checks find a
            // folder that does not exist yet.
            for folder in folders(&file) {
                let _ = inotify.add_watch(&folder, interesting);
            }
            match inotify.read_events() {
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return,
            }
            thread::sleep(SETTLE);
            if sender.send(Message::Check).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("watch".to_owned())
        .spawn(watch)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, sync::mpsc};

    use super::*;

    #[test]
    fn every_way_of_changing_a_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("..v1")).unwrap();
        fs::write(at("..v1/topology.yaml"), "1").unwrap();
        symlink("..v1", at("..data")).unwrap();
        symlink("..data/topology.yaml", at("topology.yaml")).unwrap();
        let watched = folders(&at("topology.yaml"));
        assert!(watched.contains(&at("..data")) && watched.contains(&at("..v1")));
        let (sender, messages) = mpsc::channel();
        start(&at("topology.yaml"), sender).unwrap();
        let seen = |what: &str| {
            let message = messages.recv_timeout(Duration::from_secs(20));
            assert!(matches!(message, Ok(Message::Check)), "{what} was not seen");
            // Further notifications of the same change.
            while messages.recv_timeout(4 * SETTLE).is_ok() {}
        };
        thread::sleep(4 * SETTLE);
        fs::write(at("..v1/topology.yaml"), "2").unwrap();
        seen("writing");
        fs::write(at("..v1/new"), "3").unwrap();
        fs::rename(at("..v1/new"), at("..v1/topology.yaml")).unwrap();
        seen("replacing");
        // As the kubelet swaps it.
        fs::create_dir(at("..v2")).unwrap();
        fs::write(at("..v2/topology.yaml"), "4").unwrap();
        symlink("..v2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        seen("swapping a ConfigMap");
        fs::write(at("..v2/topology.yaml"), "5").unwrap();
        seen("writing after the swap");
    }
}
