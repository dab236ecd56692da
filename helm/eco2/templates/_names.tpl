{{- define "eco2.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "eco2.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "eco2.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "eco2.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels that select pods. Takes (list component context). */}}
{{- define "eco2.selector" -}}
app.kubernetes.io/name: {{ include "eco2.name" (last .) }}
app.kubernetes.io/instance: {{ (last .).Release.Name }}
app.kubernetes.io/component: {{ first . }}
{{- end }}

{{- define "eco2.labels" -}}
{{ include "eco2.selector" . }}
app.kubernetes.io/version: {{ (last .).Chart.AppVersion | quote }}
app.kubernetes.io/part-of: eco2
app.kubernetes.io/managed-by: {{ (last .).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (last .).Chart.Name (last .).Chart.Version }}
{{- end }}

{{/* Takes a list: root, and a tag that goes before the image's own, or nothing. */}}
{{- define "eco2.image" -}}
{{- $root := first . }}
{{- $own := last . }}
{{- with $root.Values.image }}
{{- if $own }}{{ .repository }}:{{ $own }}{{ else if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $root.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{- define "eco2.secret" -}}
{{- default (include "eco2.fullname" .) .Values.secrets.existingSecret }}
{{- end }}

{{/* Name of the RabbitmqCluster, and the first part of its Secret's and nodes' names. */}}
{{- define "eco2.rabbitmq" -}}
{{- include "eco2.fullname" . }}-rabbitmq
{{- end }}

{{/* Every node by its own name: processes leave a node that is cut off, which a Service cannot tell from a good one. */}}
{{- define "eco2.rabbitmqNodes" -}}
{{- $cluster := include "eco2.rabbitmq" . }}
{{- $nodes := list }}
{{- range $number := until (int .Values.rabbitmq.cluster.replicas) }}
{{- $nodes = append $nodes (printf "%s-server-%d.%s-nodes.%s.svc:5672" $cluster $number $cluster $.Release.Namespace) }}
{{- end }}
{{- join "," $nodes }}
{{- end }}

{{/* A value as the text of a variable. Helm reads every number as a float, and would write 2000000 as 2e+06. */}}
{{- define "eco2.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}
