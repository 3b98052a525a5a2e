//! From the initial file system, which has only this program and a few modules,
//! to the files of the host.
use std::{env, fs};

use anyhow::Context;
use nix::{
    mount::{MsFlags, mount},
    unistd::chroot,
};
use vm_init::modules;

/// What a 9p share of QEMU is called on the host's side.
const TAG: &str = "emu-root";
const OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=512000,cache=";

/// Makes the host's files the root, where the kernel could not do so itself.
pub fn enter() -> anyhow::Result<()> {
    let Ok(cache) = env::var("EMU_ROOT") else {
        return Ok(());
    };
    modules::load(&modules::VIRTIO)?;
    fs::create_dir_all("/host").context("make /host")?;
    mount(
        Some(TAG),
        "/host",
        Some("9p"),
        MsFlags::empty(),
        Some(format!("{OPTIONS}{cache}").as_str()),
    )
    .context("mount the host's files")?;
    env::set_current_dir("/host").context("enter /host")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .context("move the host's files to /")?;
    chroot(".").context("enter the host's files")?;
    env::set_current_dir("/").context("enter /")
}
