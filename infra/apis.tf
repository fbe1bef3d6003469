resource "google_project_service" "needed" {
  for_each = setunion(keys(local.needs.apis), var.billing_account == "" ? [] : ["billingbudgets.googleapis.com"])

  service            = each.key
  disable_on_destroy = false # something else in the project may use it
}

data "google_project" "this" {
  depends_on = [google_project_service.needed]
}
