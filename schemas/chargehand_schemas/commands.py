"""Messages of the topic `commands`: what clients ask of the planner. Each may be refused; the item id is the command id.

Owns shape and limits only; what a command means is decided in the planner's core.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints

from .base import Instant, Item, Model
from .properties import ExecutionOverrides, ExecutionProperties
from .reasons import Role

HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_.:-]{0,252}[A-Za-z0-9_])?$")]
Address = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9_:\[][A-Za-z0-9_.:%\[\]-]{0,252})?$")]
UserName = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.@$-]{0,63})?$")]
ProxyName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Login = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}$")]
InputName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class Command(Item):
    """A command. `actor` is the person or program it is for, as `user:LOGIN` or `service:NAME`."""

    actor: str = Field(max_length=128)


MAX_PASSWORD_CHARACTERS = 256
Password = Annotated[
    str, StringConstraints(max_length=MAX_PASSWORD_CHARACTERS, pattern=r"^[^\x00-\x1f\x7f]*$"), Field(repr=False)
]
"""One line, as a host's prompt takes it."""


class Targeting(Model):
    """Which hosts: all, or the union of names and ids. An empty targeting is refused."""

    all: bool = False
    host_names: tuple[HostName, ...] = Field((), max_length=100_000)
    host_ids: tuple[UUID, ...] = Field((), max_length=100_000)


class InvokeJob(Command):
    """Run a JobTemplate on hosts. `job_invocation_id` is chosen by the client (random), so a repeat is the same job.

    `inputs` in clear; `sealed_inputs` are base64 of a SealedBox to the planner's vault key (hidden values), and so is
    `sealed_effective_user_password`: what the host asks for before it runs the script as the effective user.
    """

    job_invocation_id: UUID
    template: Name = Field(description="Name or id of a JobTemplate.")
    targeting: Targeting
    inputs: dict[InputName, Annotated[str, StringConstraints(max_length=65_536)]] = Field(default_factory=dict)
    sealed_inputs: dict[InputName, str] = Field(default_factory=dict)
    overrides: ExecutionOverrides = ExecutionOverrides()
    effective_user: UserName = ""
    sealed_effective_user_password: str = Field("", max_length=8192)
    description: str = Field("", max_length=1024)
    start_at: Instant | None = None
    start_before: Instant | None = None
    expect_hosts: int | None = Field(None, ge=0, description="Refuse unless the targeting has exactly so many hosts.")
    rerun_of: UUID | None = Field(None, description="The JobInvocation that is done again, for whoever looks back.")


class CancelJobInvocation(Command):
    """Cancel an invocation, or only the job tasks of `host_ids` when given."""

    job_invocation_id: UUID
    host_ids: tuple[UUID, ...] = ()


class EditJobInvocation(Command):
    """Change the concurrency limit of an invocation that goes on. None: no limit of its own. A lower one binds new claims."""

    job_invocation_id: UUID
    concurrency: int | None = Field(ge=1, le=1_000_000)


class ChangeProxy(Command):
    """How many attempts a proxy takes at once, over all invocations: its machine has a size. None: the dispatcher's default."""

    proxy: ProxyName
    concurrency: int | None = Field(ge=1, le=1_000_000)


class HostRecord(Model):
    """A host as people assign it. Empty fields leave the choice to the proxy agent's own ssh configuration."""

    name: HostName
    address: Address = ""
    port: int | None = Field(None, ge=1, le=65535)
    user: UserName = ""
    identity_file: str = Field("", max_length=1024, pattern=r"^[^-\x00-\x1f][^\x00-\x1f]*$|^$")
    host_keys: tuple[Annotated[str, StringConstraints(max_length=16_384)], ...] = Field((), max_length=16)
    accept_new: bool = Field(False, description="Trust the key seen first, and only that one.")
    proxy: ProxyName | None = None
    groups: tuple[Name, ...] = Field((), max_length=256)
    parameters: dict[Name, Annotated[str, StringConstraints(max_length=16_384)]] = Field(default_factory=dict)


class ImportHosts(Command):
    """Register hosts, or change those of the same name. At most 500 a command; `import_id` joins the chunks of one file."""

    import_id: UUID
    hosts: tuple[HostRecord, ...] = Field(min_length=1, max_length=500)


class RemoveHosts(Command):
    """Take hosts out of the inventory; their history stays."""

    host_ids: tuple[UUID, ...] = Field(min_length=1, max_length=500)


class TemplateInput(Model):
    """An input of a JobTemplate that a user gives."""

    name: InputName
    required: bool = False
    description: str = Field("", max_length=1024)
    default: str | None = Field(None, max_length=65_536)
    hidden_value: bool = False


class SaveJobTemplate(Command):
    """Create a JobTemplate, or a new version of it. `template_id` None: a new one."""

    template_id: UUID | None = None
    name: Name
    job_category: str = Field("Commands", max_length=255)
    provider_type: str = Field("ssh", pattern=r"^[a-z][a-z0-9_]{0,31}$")
    body: str = Field(max_length=131_072)
    inputs: tuple[TemplateInput, ...] = Field((), max_length=64)
    properties: ExecutionProperties = ExecutionProperties()
    effective_user: UserName = ""
    effective_user_overridable: bool = Field(True, description="Whether an invocation may name another user.")
    effective_user_current_user: bool = Field(
        False, description="The login of the person who invokes, instead of effective_user."
    )
    description_format: str = Field("", max_length=1024)


class IssueEnrolmentToken(Command):
    """Allow one enrolment. The token is an Ed25519 seed that only the enrolee holds; `token_key` is its public half (hex)."""

    token_key: str = Field(pattern=r"^[0-9a-f]{64}$")
    role: Role
    subject: ProxyName = Field(description="Proxy name of an agent, or name of a service account.")
    actors: tuple[str, ...] = Field((), description="Actors a service account may speak for.")
    expires_at: Instant


class EnrolKey(Item):
    """Use a one-time token: signed by the token's key in the envelope, which names the new keys (hex)."""

    token_kid: str
    agent_id: str = Field("", max_length=128)
    signing_key: str = Field(pattern=r"^[0-9a-f]{64}$")
    sealing_key: str = Field(pattern=r"^[0-9a-f]{64}$")


class RevokeKey(Command):
    """No message under this key has an effect any more."""

    kid: str


class CreateUser(Command):
    """A person. Roles come with their issue; `administrator` is the one there is."""

    login: Login
    role: str = "administrator"


class DisableUser(Command):
    """A person who may do nothing any more; checked again at execution."""

    login: Login


class IssueToken(Command):
    """An access token of a person: only its SHA-256 (hex) travels."""

    login: Login
    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    label: str = Field("", max_length=255)
    expires_at: Instant


class RevokeToken(Command):
    """Revoke an access token by its id."""

    token_id: UUID
