//! Changes of links between groups, partitions.
use std::collections::{BTreeMap, BTreeSet};

use emu_common::{
    layout::{Direction, PairLink, Pipe, pipe_flag},
    model::random,
};
use emu_model::{
    plan::{MapWrite, next_generation, put_impairments},
    topology::{self, GroupId, PipeChange},
};

use super::{Changed, Live, LiveError, Stores, access_links};

impl Live {
    /// Partitions two groups, or heals the partition, in both directions, including nested
    /// groups.
    pub fn set_cut(&mut self, a: GroupId, b: GroupId, cut: bool) -> Result<Changed, LiveError> {
        let session = self.lock()?;
        let mut stores = Stores::default();
        for pair in self.topology().pairs_between(a, b, false) {
            let mut link = self.maps.pairs.get(pair).unwrap_or_default();
            link.stage &= !PairLink::CUT;
            if cut {
                link.stage |= PairLink::CUT;
            }
            stores.link(pair as u32, link);
        }
        self.store(&session, &stores, false)
    }

    /// Changes the link between two groups and those nested in them, in both
    /// directions unless `one_way`.
    ///
    /// # Errors
    /// [`LiveError`]; then nothing was changed.
    pub fn set_pair(
        &mut self,
        (a, b): (GroupId, GroupId),
        one_way: bool,
        change: &PipeChange,
    ) -> Result<Changed, LiveError> {
        self.change_pair((a, b), one_way, change, true)
    }

    /// Like [`Live::set_pair`]; without `resize`, fq is known to be large enough.
    pub(crate) fn change_pair(
        &mut self,
        ends: (GroupId, GroupId),
        one_way: bool,
        change: &PipeChange,
        resize: bool,
    ) -> Result<Changed, LiveError> {
        let session = self.lock()?;
        let (stores, pairs) = self.prepare_pair(ends, one_way, change)?;
        let changed = self.store(&session, &stores, resize)?;
        Ok(Changed { pairs, ..changed })
    }

    /// Enlarges fq for a future change.
    pub(crate) fn reserve_pair(
        &mut self,
        ends: (GroupId, GroupId),
        one_way: bool,
        change: &PipeChange,
    ) -> Result<(), LiveError> {
        let session = self.lock()?;
        let (stores, _) = self.prepare_pair(ends, one_way, change)?;
        self.grow_fq(&session, &stores)
    }

    fn prepare_pair(
        &mut self,
        (a, b): (GroupId, GroupId),
        one_way: bool,
        change: &PipeChange,
    ) -> Result<(Stores, usize), LiveError> {
        let place = format!(
            "the link between {} and {}",
            self.group_name(a),
            self.group_name(b)
        );
        self.check_features(&change.impairments, &place)?;
        let pairs = self.topology().pairs_between(a, b, one_way);
        let mut links: BTreeMap<usize, PairLink> = pairs
            .iter()
            .map(|p| (*p, self.maps.pairs.get(*p).unwrap_or_default()))
            .collect();
        let mut stores = Stores::default();
        let ends = change.latency.is_some()
            && links
                .values()
                .any(|link| self.has_scheduled_latency(link.pipe));
        if change.rate.is_some() || change.queue.is_some() || ends {
            self.capacities(&mut stores, &links, (a, b), change)?;
            for link in links.values_mut() {
                let ended = |write: &&MapWrite<Pipe>| {
                    write.index == link.pipe && write.value.flags & pipe_flag::SCHEDULED == 0
                };
                if self.has_scheduled_latency(link.pipe)
                    && let Some(write) = stores.pipes.iter().find(ended)
                {
                    link.latency_ns = write.value.latency_ns;
                }
            }
        }
        if !change.impairments.is_empty() {
            self.link_stages(&mut stores, &mut links, (a, b), change)?;
        }
        let mut shortened = BTreeSet::new();
        let groups = self.plan().groups.len();
        for (pair, link) in &mut links {
            if let Some(latency) = change.latency {
                let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
                if latency_ns < link.latency_ns {
                    shortened.insert(pair / groups);
                }
                link.latency_ns = latency_ns;
            }
            if self.maps.pairs.get(*pair) != Some(*link) {
                stores.link(*pair as u32, *link);
            }
        }
        self.begin_flows(&mut stores, &shortened);
        Ok((stores, links.len()))
    }

    /// Packets of a shorter path must not queue behind those of the longer one.
    fn begin_flows(&self, stores: &mut Stores, groups: &BTreeSet<GroupId>) {
        if groups.is_empty() {
            return;
        }
        for (vnode, planned) in self.plan().vnodes.iter().enumerate() {
            if groups.contains(&planned.group) {
                let index = self.index(vnode, Direction::Up);
                let mut pipe = self.maps.pipes.get(index as usize).unwrap_or_default();
                pipe.generation = next_generation(pipe.generation);
                stores.pipe(index, pipe);
            }
        }
    }

    /// Rate and queue of the capacities of links.
    fn capacities(
        &mut self,
        stores: &mut Stores,
        links: &BTreeMap<usize, PairLink>,
        (a, b): (GroupId, GroupId),
        change: &PipeChange,
    ) -> Result<(), LiveError> {
        let mut pipes: BTreeSet<u32> = links.values().map(|l| l.pipe).collect();
        pipes.remove(&0);
        let (file, ends) = (self.file(), [self.group_name(a), self.group_name(b)]);
        let [a, b] = ends;
        if pipes.is_empty() {
            return Err(LiveError::NoCapacity { a, b, file });
        }
        for pair in 0..self.maps.pairs.len() {
            let shared = self
                .maps
                .pairs
                .get(pair)
                .is_some_and(|l| pipes.contains(&l.pipe));
            if shared && !links.contains_key(&pair) {
                return Err(LiveError::SharedCapacity { a, b, file });
            }
        }
        for index in pipes {
            let before = self.maps.pipes.get(index as usize).unwrap_or_default();
            let change = self.beside_course(index, &before, change);
            let capacity = PipeChange {
                rate: change.rate,
                queue: change.queue,
                ..PipeChange::default()
            };
            let file = topology::Pipe::default();
            let ended = self.before_change(index, &before, &file, &change);
            let mut pipe = access_links::changed(&ended, &file, &capacity);
            self.give_ring(&before, &mut pipe)?;
            stores.requeued.push((index, file));
            stores.pipe(index, pipe);
        }
        Ok(())
    }

    /// Gives the links stages of their own, if they share them with others.
    fn link_stages(
        &mut self,
        stores: &mut Stores,
        links: &mut BTreeMap<usize, PairLink>,
        (a, b): (GroupId, GroupId),
        change: &PipeChange,
    ) -> Result<(), LiveError> {
        let mut shared = BTreeSet::new();
        for pair in 0..self.maps.pairs.len() {
            if !links.contains_key(&pair)
                && let Some(link) = self.maps.pairs.get(pair)
            {
                shared.insert(link.stage & !PairLink::CUT);
            }
        }
        let groups = self.plan().groups.len();
        let tree = self.topology().tree(a);
        // One stage for each direction and each previous stage.
        let mut numbers: BTreeMap<(u32, bool), u32> = BTreeMap::new();
        for (pair, link) in links.iter_mut() {
            let before = link.stage & !PairLink::CUT;
            let is_back = !tree.contains(&(pair / groups));
            let number = match numbers.get(&(before, is_back)) {
                Some(number) => *number,
                None => {
                    let salt = (a * groups + b) as u64 * 2 + u64::from(is_back);
                    let seed = random::mix(self.plan().seed ^ random::mix(salt));
                    let old = self.stage(before);
                    let own = before != 0 && !shared.contains(&before);
                    let number = if own { before } else { 0 };
                    let (number, _) = self.own_stage(stores, number, seed, |stage| {
                        if !own && before != 0 {
                            *stage = emu_model::plan::stage_settings(&old);
                            stage.seed = seed;
                        }
                        put_impairments(stage, &change.impairments);
                    })?;
                    numbers.insert((before, is_back), number);
                    number
                }
            };
            link.stage = number | (link.stage & PairLink::CUT);
        }
        Ok(())
    }
}
