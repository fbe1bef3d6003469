resource "google_project_service" "needed" {
  for_each = setunion(keys(local.needs.apis), var.billing_account == "" ? [] : ["billingbudgets.googleapis.com"])

  service            = each.key
  disable_on_destroy = false # something else in the project may use it
}

# Pub/Sub's own account in this project, which forwards what cannot be delivered. Google makes it on first use, and
# a grant to an account that is not there yet is refused; so it is asked for.
resource "google_project_service_identity" "pubsub" {
  provider = google-beta

  service    = "pubsub.googleapis.com"
  depends_on = [google_project_service.needed]
}

data "google_project" "this" {
  depends_on = [google_project_service.needed]
}
