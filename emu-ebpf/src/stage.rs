//! Impairments of a pipe or a link: loss, jitter, copies, overtaking.
use aya_ebpf::programs::TcContext;
use emu_common::{
    layout::{Stage, feature, stage_flag},
    model::{
        delay, jitter, loss,
        random::{self, Purpose},
    },
    reason::Reason,
};

use crate::{
    atomic, maps,
    packet::{self, Packet},
};

/// `tc_index` of a copy that a stage made: it is not copied again.
const COPY: u32 = 0xe307;

/// Attempts at a flow's latest due time before a packet may overtake after all.
const ATTEMPTS: u32 = 4;

/// Correlated quantities, in the order of [`Stage::rho`].
#[derive(Clone, Copy)]
enum Correlated {
    Jitter = 0,
    Loss = 1,
    Duplicate = 2,
    Corrupt = 3,
    Reorder = 4,
}

/// One packet at a stage.
pub struct Passing {
    stage: *mut Stage,
    seed: u64,
    packet: u64,
}

/// The latency of one packet.
#[derive(Clone, Copy)]
pub struct Latency {
    /// Nanoseconds.
    pub ns: u64,
    /// Whether it may overtake others.
    pub overtakes: bool,
    /// Whether it differs from packet to packet.
    pub varies: bool,
}

impl Latency {
    /// The same for every packet.
    #[inline(always)]
    pub const fn fixed(ns: u64) -> Self {
        Self {
            ns,
            overtakes: false,
            varies: false,
        }
    }
}

/// Begins with the stage whose number plus one this is; none for 0.
#[inline(always)]
pub fn enter(stage_plus_one: u32) -> Option<Passing> {
    if maps::features() & feature::STAGES == 0 || stage_plus_one == 0 {
        return None;
    }
    let stage = maps::stage(stage_plus_one - 1)?;
    // SAFETY: `stage` points to a live map value.
    let (seed, sequence) = unsafe { ((*stage).seed, &raw mut (*stage).sequence) };
    Some(Passing {
        stage,
        seed,
        packet: atomic::fetch_add(sequence, 1),
    })
}

/// The latency of a packet at a stage, or of all packets where there is none.
#[inline(always)]
pub fn latency(passing: &Option<Passing>, latency_ns: u64) -> Latency {
    match passing {
        Some(passing) => passing.latency(latency_ns),
        None => Latency::fixed(latency_ns),
    }
}

/// The due time of a packet of a flow that keeps its order: not before any packet
/// in front of it. `fq` alone would not do it, it sorts a flow by due times.
#[inline(always)]
pub fn in_order(flow: u32, due_ns: u64) -> u64 {
    if maps::features() & feature::STAGES == 0 {
        return due_ns;
    }
    let Some(latest) = maps::latest(flow, due_ns) else {
        return due_ns;
    };
    for _ in 0..ATTEMPTS {
        let before_ns = atomic::read(latest);
        let due_ns = delay::in_order_ns(due_ns, before_ns);
        if due_ns == before_ns || atomic::compare_and_swap(latest, before_ns, due_ns) {
            return due_ns;
        }
    }
    due_ns
}

impl Passing {
    #[inline(always)]
    fn draw(&self, purpose: Purpose) -> (u32, u32) {
        random::draw(self.seed, self.packet, purpose)
    }

    #[inline(always)]
    fn correlate(&self, what: Correlated, fresh: u32) -> u32 {
        // SAFETY: `stage` points to a live map value and the index is constant.
        // Another CPU's store may be lost: one step of a correlation.
        unsafe {
            let rho = (*self.stage).rho[what as usize];
            if rho == 0 {
                return fresh;
            }
            let value = random::correlated(fresh, (*self.stage).last[what as usize], rho);
            (*self.stage).last[what as usize] = value;
            value
        }
    }

    /// Whether the packet is lost here.
    #[inline(always)]
    pub fn loses(&self) -> bool {
        // SAFETY: `stage` points to a live map value.
        let (kind, state, p) = unsafe {
            (
                (*self.stage).loss_kind,
                (*self.stage).loss_state,
                &(*self.stage).loss,
            )
        };
        if kind == loss::NONE {
            return false;
        }
        let (first, second) = self.draw(Purpose::Loss);
        let (next, lost) = match kind {
            loss::GILBERT_ELLIOTT => loss::gilbert_elliott(state, p, first, second),
            loss::MARKOV4 => loss::markov4(state, p, first),
            _ => (
                state,
                random::happens(p[0], self.correlate(Correlated::Loss, first)),
            ),
        };
        // SAFETY: as above; two CPUs at once may lose a step of the chain.
        unsafe {
            if next != state {
                (*self.stage).loss_state = next;
            }
            if lost {
                atomic::fetch_add(&raw mut (*self.stage).losses, 1);
            }
        }
        lost
    }

    /// Sends a second copy through the same programs, and changes a bit, each
    /// with its probability.
    #[inline(always)]
    pub fn copy(&self, ctx: &TcContext, packet: &Packet, may_copy: bool) {
        // SAFETY: `stage` points to a live map value.
        let (duplicate, corrupt) = unsafe { ((*self.stage).duplicate, (*self.stage).corrupt) };
        if maps::features() & feature::COPIES == 0 || duplicate | corrupt == 0 {
            return;
        }
        let (first, second) = self.draw(Purpose::Copy);
        if duplicate != 0
            && may_copy
            && random::happens(duplicate, self.correlate(Correlated::Duplicate, first))
            && send_copy(ctx)
        {
            maps::count(Reason::Duplicated);
            // SAFETY: as above.
            atomic::fetch_add(unsafe { &raw mut (*self.stage).duplicates }, 1);
        }
        if corrupt != 0 && random::happens(corrupt, self.correlate(Correlated::Corrupt, second)) {
            packet::corrupt(ctx, packet, self.draw(Purpose::Bit));
            maps::count(Reason::Corrupted);
            // SAFETY: as above.
            atomic::fetch_add(unsafe { &raw mut (*self.stage).corruptions }, 1);
        }
    }

    #[inline(always)]
    fn latency(&self, latency_ns: u64) -> Latency {
        // SAFETY: `stage` points to a live map value.
        let (spread_ns, table, flags) = unsafe {
            (
                (*self.stage).jitter_ns,
                (*self.stage).jitter_table,
                (*self.stage).flags,
            )
        };
        if self.overtakes() {
            // SAFETY: as above.
            atomic::fetch_add(unsafe { &raw mut (*self.stage).overtakes }, 1);
            return Latency {
                ns: 0,
                overtakes: true,
                varies: true,
            };
        }
        if spread_ns == 0 {
            return Latency::fixed(latency_ns);
        }
        let random = self.jitter();
        let offset_ns = if table == jitter::UNIFORM {
            jitter::uniform_ns(spread_ns, random)
        } else {
            jitter::table_ns(spread_ns, maps::table_entry(table, random))
        };
        Latency {
            ns: jitter::moved_ns(latency_ns, offset_ns),
            overtakes: flags & stage_flag::OVERTAKE != 0,
            varies: true,
        }
    }

    /// The random number of the packet's jitter.
    #[inline(always)]
    fn jitter(&self) -> u32 {
        let (fresh, pick) = self.draw(Purpose::Jitter);
        // SAFETY: as for `correlate`.
        unsafe {
            let rho = (*self.stage).rho[Correlated::Jitter as usize];
            if rho == 0 {
                return fresh;
            }
            let last = (*self.stage).last[Correlated::Jitter as usize];
            let value = random::repeated(fresh, pick, last, rho);
            (*self.stage).last[Correlated::Jitter as usize] = value;
            value
        }
    }

    /// Whether the packet skips the latency.
    #[inline(always)]
    fn overtakes(&self) -> bool {
        // SAFETY: `stage` points to a live map value; another CPU's store to the
        // count may be lost, which moves one overtaking packet.
        unsafe {
            let (chance, gap) = ((*self.stage).reorder, (*self.stage).reorder_gap);
            if chance == 0 {
                return false;
            }
            let delayed = (*self.stage).reorder_count;
            let random = self.draw(Purpose::Reorder).0;
            if delayed.saturating_add(1) >= gap
                && random::happens(chance, self.correlate(Correlated::Reorder, random))
            {
                (*self.stage).reorder_count = 0;
                true
            } else {
                (*self.stage).reorder_count = delayed.saturating_add(1);
                false
            }
        }
    }
}

/// Whether the packet is a stage's copy; takes the mark off.
#[inline(always)]
pub fn is_copy(ctx: &TcContext) -> bool {
    if maps::features() & feature::COPIES == 0 {
        return false;
    }
    let skb = ctx.skb.skb;
    // SAFETY: the live context; `tc_index` may be read and written.
    unsafe {
        let copy = (*skb).tc_index == COPY;
        if copy {
            (*skb).tc_index = 0;
        }
        copy
    }
}

#[inline(always)]
fn send_copy(ctx: &TcContext) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: the live context; `ifindex` is readable, `tc_index` writable too.
    unsafe {
        let before = (*skb).tc_index;
        (*skb).tc_index = COPY;
        let sent = ctx.clone_redirect((*skb).ifindex, 0).is_ok();
        (*skb).tc_index = before;
        sent
    }
}
