terraform {
  required_version = ">= 1.9"

  # The state names every account and bucket: keep it in a bucket of its own, not on somebody's disk.
  #   terraform init -backend-config=bucket=BUCKET
  backend "gcs" {
    prefix = "gauntlet"
  }

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.7"
    }
    google-beta = { # for google_project_service_identity alone
      source  = "hashicorp/google-beta"
      version = "~> 8.7"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region

  # Billing budgets are asked for in the name of this project.
  billing_project       = var.project
  user_project_override = true
  default_labels        = { system = "gauntlet" }
}

provider "google-beta" {
  project = var.project
  region  = var.region

  billing_project       = var.project
  user_project_override = true
}
