//! What containerd wants to hear about.

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task as message;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::topics;

use crate::clock;
use crate::process::{Exit, Process};
use crate::publisher::Publisher;

/// Publishes events about containers, when there is somebody to hear them. `container` is a container's id.
pub(crate) struct Events {
    publisher: Option<Publisher>,
}

impl Events {
    pub(crate) fn new(publisher: Option<Publisher>) -> Self {
        Self { publisher }
    }

    pub(crate) fn publisher(&self) -> Option<&Publisher> {
        self.publisher.as_ref()
    }

    pub(crate) fn publisher_mut(&mut self) -> Option<&mut Publisher> {
        self.publisher.as_mut()
    }

    pub(crate) fn created(&mut self, request: &CreateTaskRequest, pid: u32) {
        let event = message::TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            io: MessageField::some(message::TaskIO {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
                ..Default::default()
            }),
            pid,
            ..Default::default()
        };
        self.publish(topics::TASK_CREATE_EVENT_TOPIC, "TaskCreate", &event);
    }

    pub(crate) fn started(&mut self, container: &str, process: &str, pid: u32) {
        if process.is_empty() {
            let event = message::TaskStart {
                container_id: container.to_owned(),
                pid,
                ..Default::default()
            };
            self.publish(topics::TASK_START_EVENT_TOPIC, "TaskStart", &event);
        } else {
            let event = message::TaskExecStarted {
                container_id: container.to_owned(),
                exec_id: process.to_owned(),
                pid,
                ..Default::default()
            };
            self.publish(
                topics::TASK_EXEC_STARTED_EVENT_TOPIC,
                "TaskExecStarted",
                &event,
            );
        }
    }

    pub(crate) fn checkpointed(&mut self, container: &str, path: &str) {
        let event = message::TaskCheckpointed {
            container_id: container.to_owned(),
            checkpoint: path.to_owned(),
            ..Default::default()
        };
        self.publish(
            topics::TASK_CHECKPOINTED_EVENT_TOPIC,
            "TaskCheckpointed",
            &event,
        );
    }

    pub(crate) fn exec_added(&mut self, container: &str, exec_id: &str) {
        let event = message::TaskExecAdded {
            container_id: container.to_owned(),
            exec_id: exec_id.to_owned(),
            ..Default::default()
        };
        self.publish(topics::TASK_EXEC_ADDED_EVENT_TOPIC, "TaskExecAdded", &event);
    }

    pub(crate) fn exited(&mut self, container: &str, process: &Process, exit: Exit) {
        let event = message::TaskExit {
            container_id: container.to_owned(),
            id: event_id(container, process),
            pid: process.pid,
            exit_status: exit.code,
            exited_at: MessageField::some(clock::timestamp(exit.at)),
            ..Default::default()
        };
        self.publish(topics::TASK_EXIT_EVENT_TOPIC, "TaskExit", &event);
    }

    pub(crate) fn deleted(&mut self, container: &str, process: &Process, exit: Exit) {
        let event = message::TaskDelete {
            container_id: container.to_owned(),
            id: event_id(container, process),
            pid: process.pid,
            exit_status: exit.code,
            exited_at: MessageField::some(clock::timestamp(exit.at)),
            ..Default::default()
        };
        self.publish(topics::TASK_DELETE_EVENT_TOPIC, "TaskDelete", &event);
    }

    pub(crate) fn paused(&mut self, container: &str) {
        let event = message::TaskPaused {
            container_id: container.to_owned(),
            ..Default::default()
        };
        self.publish(topics::TASK_PAUSED_EVENT_TOPIC, "TaskPaused", &event);
    }

    pub(crate) fn resumed(&mut self, container: &str) {
        let event = message::TaskResumed {
            container_id: container.to_owned(),
            ..Default::default()
        };
        self.publish(topics::TASK_RESUMED_EVENT_TOPIC, "TaskResumed", &event);
    }

    pub(crate) fn out_of_memory(&mut self, container: &str) {
        let event = message::TaskOOM {
            container_id: container.to_owned(),
            ..Default::default()
        };
        self.publish(topics::TASK_OOM_EVENT_TOPIC, "TaskOOM", &event);
    }

    fn publish(&mut self, topic: &str, name: &str, event: &impl Message) {
        if let Some(publisher) = &mut self.publisher {
            publisher.publish(topic, &format!("containerd.events.{name}"), event);
        }
    }
}

/// Events name the container for its init process, and the exec for others.
fn event_id(container: &str, process: &Process) -> String {
    if process.exec_id.is_empty() {
        container.to_owned()
    } else {
        process.exec_id.clone()
    }
}
