variable "project" {
  description = "Id of the project that everything is made in. It exists and has a billing account."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "Expected a project's id, such as my-project-123: its number or display name will not do."
  }
}

variable "region" {
  description = "Region of pipelines, buckets and repositories, such as europe-west4."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "Expected a region, such as europe-west4; a zone such as europe-west4-a will not do."
  }
}

variable "submitters" {
  description = "Who may submit runs by hand: user:…, group:… or serviceAccount:…."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.submitters : can(regex("^(user|group|serviceAccount):[^:@]+@[^:@]+$", member))])
    error_message = "Expected members such as group:ml@example.com; allUsers and domains will not do."
  }
}

variable "repository" {
  description = "Source repository that Cloud Build was connected to (second generation), or empty: no triggers."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^$|^projects/[^/]+/locations/[^/]+/connections/[^/]+/repositories/[^/]+$", var.repository))
    error_message = "Expected projects/PROJECT/locations/REGION/connections/CONNECTION/repositories/NAME."
  }
}

variable "registry" {
  description = "Where builds, schedules and the receiver register models, as gauntlet submit --registry takes it; empty: Vertex AI Model Registry of this project, with the bundles in the bucket of runs."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^$|^vertex://[^/?]+/[^/?]+[?](.*&)?staging=gs://|^mlflow[+]https?://[^/]+", var.registry))
    error_message = "Expected vertex://PROJECT/REGION?staging=gs://BUCKET/FOLDER or mlflow+https://HOST; a database under /gcs does not work there."
  }
}

variable "torch_index_url" {
  description = "Index that has the CPU build of torch, for the tests and the components image."
  type        = string
  default     = ""

  validation {
    condition     = var.torch_index_url != "" || var.repository == ""
    error_message = "Expected the address of PyTorch's index of CPU builds, or of a mirror of it, as builds install torch from there."
  }
}

variable "docker_hub" {
  description = "Where builds pull Docker Hub's images from: a mirror of it, with a trailing slash, or empty: Docker Hub itself."
  type        = string
  default     = ""

  validation {
    condition     = var.docker_hub == "" || endswith(var.docker_hub, "/")
    error_message = "Expected a prefix that ends with a slash, such as REGION-docker.pkg.dev/PROJECT/docker-hub/."
  }
}

variable "extra_packages" {
  description = "Packages of your own for all images, separated by spaces: wheels or folders below extra/ in the repository, or URLs of wheels."
  type        = string
  default     = ""
}

variable "serving_image" {
  description = "Image that serves registered models, by digest, for runs that people and the receiver submit, or empty: versions without a container. Builds take the one that they have pushed."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^$|^[^ @]+@sha256:[0-9a-f]{64}$", var.serving_image))
    error_message = "Expected an image by digest, IMAGE@sha256:…; a tag can be moved to another image."
  }
}

variable "receiver_image" {
  description = "Components image of the receiver of events, by digest, or empty: no receiver yet."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^$|^[^ @]+@sha256:[0-9a-f]{64}$", var.receiver_image))
    error_message = "Expected an image by digest, IMAGE@sha256:…; a tag can be moved to another image."
  }
}

variable "receiver_settings" {
  description = "The receiver's own variables: the images by digest, and limits, as docs/how-to/trigger_runs.md has them."
  type        = map(string)
  default     = {}
}

variable "scheduled_events" {
  description = "Events that Cloud Scheduler publishes: by name, a cron expression, a time zone, and the event as JSON."
  type = map(object({
    cron      = string
    time_zone = optional(string, "Etc/UTC")
    event     = string
  }))
  default = {}

  validation {
    condition     = alltrue([for each in var.scheduled_events : length(split(" ", each.cron)) == 5 && can(jsondecode(each.event))])
    error_message = "Expected a cron expression of five fields, such as 0 2 * * 0, and an event in JSON."
  }
}

variable "billing_account" {
  description = "Billing account of the project, 012345-ABCDEF-012345, or empty: no budget alert."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^$|^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.billing_account))
    error_message = "Expected a billing account's id, such as 012345-ABCDEF-012345."
  }
}

variable "monthly_budget" {
  description = "Money that the project may spend in a month before people are told, in the billing account's currency."
  type        = number
  default     = 200

  validation {
    condition     = var.monthly_budget >= 1 && floor(var.monthly_budget) == var.monthly_budget
    error_message = "Expected a whole number of at least 1."
  }
}

variable "alert_emails" {
  description = "Who is told of failed pipelines, rejected events and the budget."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for address in var.alert_emails : can(regex("^[^@ ]+@[^@ ]+$", address))])
    error_message = "Expected e-mail addresses."
  }
}
