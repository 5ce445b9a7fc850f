//! What the monitor has of the host: opened before its jail closes, kept over resets.

use std::io;
use std::os::unix::net::UnixListener;

use atoll_cpu_api::Hypervisor;
use atoll_machine::boot::Ramdisk;
use atoll_machine::devices::{Balloon, Cards, HostEnds};
use atoll_machine::kernel::{Kernel, KernelStore};
use atoll_machine::{
    Backend, BootSource, Machine, MachineConfig, MachineError, Snapshot, Source, VmmConfig, jail,
};
use atoll_memory::GuestMemory;
use atoll_sys::inherited;

/// All of it.
pub(crate) struct Host {
    backend: Backend,
    hypervisor: Box<dyn Hypervisor>,
    beginning: Beginning,
    ends: HostEnds,
}

/// Where a machine begins, opened.
enum Beginning {
    Boot {
        source: BootSource,
        kernel: Kernel,
        ramdisk: Option<Ramdisk>,
    },
    /// A machine goes on once only.
    Restore(Option<(Snapshot, GuestMemory)>),
}

impl Host {
    /// Opens what `config` names, and closes whatever else the process was started with.
    ///
    /// # Errors
    /// Whatever cannot be opened.
    pub(crate) fn open(config: &VmmConfig) -> Result<Self, MachineError> {
        let failed = || MachineError::io("close what it was started with");
        let named = config.inherited();
        inherited::close_others(&named).map_err(|errno| failed()(errno.into()))?;
        let beginning = Beginning::open(&config.source)?;
        let backend = match (config.backend, &beginning) {
            // It goes on there or nowhere; a probe would only take its time.
            (Backend::Auto, Beginning::Restore(Some((snapshot, _)))) => snapshot.backend(),
            (backend, _) => backend.choose(),
        };
        let host = Self {
            backend,
            hypervisor: backend.open()?,
            beginning,
            ends: HostEnds::open(config)?,
        };
        // They were opened again by their numbers; one that was named twice is taken once.
        for number in named {
            drop(inherited::take(number));
        }
        Ok(host)
    }

    /// Enters the jail that `config` wants.
    ///
    /// # Errors
    /// [`MachineError::Jail`].
    pub(crate) fn shut_in(
        &mut self,
        config: &VmmConfig,
        parent: Option<u32>,
    ) -> Result<(), MachineError> {
        let needs = jail::Needs {
            kvm: self.backend == Backend::Kvm,
            parent,
            ..self.ends.needs(self.beginning.memory_bytes())
        };
        jail::enter(config.jail, &needs, &mut self.ends)
    }

    /// Who executes the guest: never [`Backend::Auto`].
    pub(crate) fn backend(&self) -> Backend {
        self.backend
    }

    /// The socket that the machine is controlled by.
    ///
    /// # Errors
    /// As [`HostEnds::control`].
    pub(crate) fn control(&self) -> Result<Option<UnixListener>, MachineError> {
        self.ends.control()
    }

    /// The balloon of its machines.
    pub(crate) fn balloon(&self) -> Option<Balloon> {
        self.ends.balloon()
    }

    /// The network cards of its machines.
    pub(crate) fn cards(&self) -> Cards {
        self.ends.cards()
    }

    /// A machine that is ready to start.
    ///
    /// # Errors
    /// As [`Machine::new`], [`Machine::load`] and [`Machine::restore`].
    pub(crate) fn machine(&mut self) -> Result<Machine, MachineError> {
        let output = Box::new(io::stdout());
        let devices = self.ends.devices()?;
        match &mut self.beginning {
            Beginning::Boot {
                source,
                kernel,
                ramdisk,
            } => {
                let ramdisk = ramdisk.as_mut().map(Ramdisk::read).transpose()?;
                // Each page that it touches first costs a guest of KVM an exit; the CPU in software has none.
                let memory = match self.backend {
                    Backend::Kvm => GuestMemory::in_huge_pages(source.memory_bytes)?,
                    _ => GuestMemory::new(source.memory_bytes)?,
                };
                let shape = MachineConfig {
                    cpus: source.cpus,
                    tsc_khz: None,
                    spare_cards: self.ends.spare_cards(),
                };
                let machine = Machine::new(shape, &*self.hypervisor, memory, devices, output)?;
                machine.load(kernel, ramdisk.as_deref(), &source.command_line)?;
                Ok(machine)
            }
            Beginning::Restore(saved) => {
                let again = || MachineError::Snapshot("it went on already".to_owned());
                let (snapshot, memory) = saved.take().ok_or_else(again)?;
                let shape = MachineConfig {
                    spare_cards: self.ends.spare_cards(),
                    ..snapshot.shape()?
                };
                let machine = Machine::new(shape, &*self.hypervisor, memory, devices, output)?;
                machine.restore(&snapshot)?;
                Ok(machine)
            }
        }
    }
}

impl Beginning {
    fn open(source: &Source) -> Result<Self, MachineError> {
        match source {
            Source::Boot(source) => {
                let mut kernel = KernelStore::new(&source.kernel_store).open(&source.kernel)?;
                kernel.protocol = source.protocol.unwrap_or(kernel.protocol);
                Ok(Self::Boot {
                    kernel,
                    ramdisk: source.initrd.as_deref().map(Ramdisk::open).transpose()?,
                    source: source.clone(),
                })
            }
            Source::Restore(folder) => {
                let saved = Snapshot::open(folder)?;
                Ok(Self::Restore(Some(saved)))
            }
        }
    }

    fn memory_bytes(&self) -> u64 {
        match self {
            Self::Boot { source, .. } => source.memory_bytes,
            Self::Restore(saved) => saved.as_ref().map_or(0, |saved| saved.1.len()),
        }
    }
}
