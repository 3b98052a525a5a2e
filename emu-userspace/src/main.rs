//! tmp
fn main() -> anyhow::Result<()> {
    let t = emu::topology::load(std::path::Path::new("topologies/p2plab.yaml"))?;
    let plan = emu::plan::Plan::new(&t, None)?;
    println!("{:?} {}", plan.fq, plan.ring_slots());
    let dir = emu::kernel::state::StateDir::here()?;
    let lock = dir.lock()?;
    if std::env::args().nth(1).as_deref() == Some("unload") {
        println!("{}", emu::kernel::undo::unload(&dir, &lock)?);
        return Ok(());
    }
    let t0 = std::time::Instant::now();
    let st = emu::kernel::apply::load(&plan, std::path::Path::new("x"), "x", &dir, &lock)?;
    println!("loaded {:?}", t0.elapsed());
    if std::env::args().nth(1).as_deref() == Some("load") {
        return Ok(());
    }
    let r = emu::verify::run(
        &t,
        &plan,
        &emu::verify::Options {
            rates: std::env::args().nth(1).is_some(),
            ..Default::default()
        },
        &mut |_, _| {},
    )?;
    for p in &r.pairs {
        println!(
            "{:8} {:8} {:10.3} {:?} {:?} {}",
            p.from, p.to, p.expected_rtt_ms, p.rtt_ms, p.error_ms, p.ok
        );
    }
    for p in &r.rates {
        println!("{:?}", p);
    }
    for r in emu::kernel::apply::open_maps(&st)?.reasons()? {
        println!("{:?}", r);
    }
    println!("{}", emu::kernel::undo::unload(&dir, &lock)?);
    Ok(())
}
